// A detection: the weighted sum of its fibers, the fibers themselves, and the middle row of the sum as a spectrum.

import { BLUE, clear, element, INK, MUTED, plot, rule, VERMILLION } from "/static/plot.js";

// Significances that are white and black, as in the figures of the selection.
const WHITE = -2.5, BLACK = 6.0;
const ROWS = 9, COLUMNS = 32;

document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/programme/emission.css" }));

export function draw(place, picture) {
  clear(place);
  const all = element("div", "cutouts");
  place.append(all);
  picture.planes.forEach((plane, k) => {
    const figure = element("figure", k ? "" : "sum");
    figure.append(element("figcaption", "", plane.name));
    all.append(figure);
    drawPixels(figure, plane.rows);
  });
  const row = element("div", "row");
  all.append(row);
  drawRow(row, picture.offset, picture.planes[0].rows[(ROWS - 1) / 2]);
}

// Ticks above and below mark where the line was found.
function drawPixels(figure, rows) {
  const canvas = document.createElement("canvas"), side = Math.max(Math.round((figure.clientWidth * devicePixelRatio) / COLUMNS), 2);
  const high = Math.round(side * 1.5), tick = Math.round(high * 0.6);
  canvas.width = side * COLUMNS;
  canvas.height = high * ROWS + 2 * tick;
  figure.append(canvas);
  const ctx = canvas.getContext("2d");
  rows.forEach((row, y) => row.forEach((value, x) => {
    const grey = Math.round(255 * (1 - Math.min(Math.max((value - WHITE) / (BLACK - WHITE), 0), 1)));
    ctx.fillStyle = `rgb(${grey}, ${grey}, ${grey})`;
    ctx.fillRect(x * side, tick + y * high, side, high);
  }));
  ctx.strokeStyle = MUTED;
  ctx.lineWidth = devicePixelRatio;
  ctx.strokeRect(0.5, tick + 0.5, canvas.width - 1, high * ROWS - 1);
  ctx.fillStyle = VERMILLION;
  for (const y of [0, tick + high * ROWS]) ctx.fillRect((COLUMNS / 2 + 0.5) * side - 1, y, 2 * devicePixelRatio, tick);
}

function drawRow(place, offset, values) {
  place.append(element("p", "caption", "middle row of the weighted sum: significance against wavelength from the line (Å)"));
  const half = (offset[1] - offset[0]) / 2, top = Math.max(BLACK, ...values) + 0.5, low = Math.min(-3, ...values) - 0.5;
  plot(place, {
    width: place.clientWidth,
    height: 170,
    series: [{}, { stroke: INK, width: 1.2, fill: "rgba(0, 114, 178, 0.12)", fillTo: 0, points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }) }],
    hooks: { drawAxes: [(u) => { rule(u, 0, { colour: BLUE, across: true }); rule(u, 0, { colour: VERMILLION, dash: [4, 3] }); }] },
  }, [[...offset.map((x) => x - half), offset.at(-1) + half], [...values, values.at(-1)]], { x: [offset[0] - half, offset.at(-1) + half], y: [low, top] });
}
