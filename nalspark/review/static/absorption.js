// An absorber: its spectrum with the continuum and the searched path, and its lines in velocity. Drag: zoom; double-click or -tap: all.

import { BLUE, clear, element, FONT, INK, MUTED, ORANGE, plot, rule, shade, VERMILLION, zoom } from "./plot.js";

const SHADE = "#e6eef6", GAP = "#dfe1e5", BOLD = `bold ${FONT}`;
// Å shown on either side of the doublet.
const BESIDE = 90;

export function draw(place, picture) {
  clear(place);
  const wide = element("div", "wide"), panels = element("div", "panels");
  place.append(wide, element("p", "caption", "flux / continuum against velocity (km/s), and the fitted profile"), panels);
  drawSpectrum(wide, picture.spectrum, picture.lines);
  const cells = picture.panels.each.map((panel) => cell(panels, panel));
  const width = cells.length ? cells[0].clientWidth : 0;
  picture.panels.each.forEach((panel, k) => drawPanel(cells[k], width, panel, picture.panels.limits));
}

// Ions beside their lines at the top; of lines that are near each other one name.
function names(made, lines) {
  const { ctx, bbox } = made;
  ctx.save();
  ctx.textBaseline = "top";
  ctx.textAlign = "left";
  const ends = [-Infinity, -Infinity];
  for (const line of [...lines].sort((a, b) => a.place - b.place)) {
    const place = made.valToPos(line.place, "x", true), ion = line.name.replace(/ [^ ]*$/, "");
    if (place < bbox.left || place > bbox.left + bbox.width) continue;
    ctx.font = (line.strong ? BOLD : FONT).replace("11px", `${11 * devicePixelRatio}px`);
    ctx.fillStyle = line.strong ? VERMILLION : BLUE;
    const row = line.strong ? 0 : 1, wide = ctx.measureText(ion).width;
    if (place > ends[row]) {
      ctx.fillText(ion, Math.min(place + 3 * devicePixelRatio, bbox.left + bbox.width - wide), bbox.top + (1 + 13 * row) * devicePixelRatio);
      ends[row] = place + wide + 8 * devicePixelRatio;
    }
  }
  ctx.restore();
}

function drawSpectrum(place, spectrum, lines) {
  const { wavelength, flux, error, continuum, limits, searched } = spectrum;
  const pair = lines.filter((line) => line.strong).map((line) => line.place);
  const ranges = { x: [wavelength[0], wavelength.at(-1)], y: limits };
  const { made, reset } = plot(place, {
    width: place.clientWidth,
    height: window.innerWidth < 860 ? 210 : 270,
    series: [
      {},
      { stroke: MUTED, width: 0.7, alpha: 0.75, points: { show: false } },
      { stroke: INK, width: 0.8, points: { show: false } },
      { stroke: ORANGE, width: 1.8, points: { show: false } },
    ],
    hooks: {
      drawClear: [(u) => shade(u, searched, SHADE)],
      drawAxes: [(u) => lines.forEach((line) => rule(u, line.place, { from: line.strong ? 0 : 0.9, colour: line.strong ? VERMILLION : BLUE }))],
      draw: [(u) => names(u, lines)],
    },
  }, [wavelength, error, flux, continuum], ranges);
  const tools = element("div", "tools");
  const near = () => zoomTo(made, Math.min(...pair) - BESIDE, Math.max(...pair) + BESIDE, wavelength, flux);
  for (const [text, title, work] of [
    ["−", "zoom out", () => zoom(made, 2)],
    ["+", "zoom in", () => zoom(made, 0.5)],
    ["doublet", "zoom to the doublet", near],
    ["all", "the whole spectrum (double click)", reset],
  ]) {
    const button = Object.assign(element("button", "", text), { type: "button", title });
    button.addEventListener("click", () => { work(); button.blur(); });
    tools.append(button);
  }
  place.append(tools, element("p", "caption above", "flux, error, continuum; observed wavelength, vacuum (Å); shaded: searched"));
}

// To some wavelengths, and to the fluxes that are there.
function zoomTo(made, low, high, wavelength, flux) {
  const seen = flux.filter((value, k) => value !== null && wavelength[k] >= low && wavelength[k] <= high);
  made.batch(() => {
    made.setScale("x", { min: low, max: high });
    if (seen.length) made.setScale("y", { min: Math.min(0, ...seen), max: 1.1 * Math.max(...seen) });
  });
}

function cell(panels, panel) {
  const made = element("div", panel.strong ? "panel strong" : "panel"), title = element("h3");
  const covered = panel.ratio.some((value) => value !== null);
  title.append(element("span", "", panel.name), element("span", "", covered ? panel.width : "no data"));
  made.append(title);
  panels.append(made);
  return made;
}

// Where there is no data, as ranges of velocity.
function gaps(velocity, ratio) {
  const half = (velocity[1] - velocity[0]) / 2, found = [];
  ratio.forEach((value, k) => {
    if (value !== null) return;
    if (k && ratio[k - 1] === null) found.at(-1)[1] = velocity[k] + half;
    else found.push([velocity[k] - half, velocity[k] + half]);
  });
  return found;
}

function drawPanel(place, width, panel, limits) {
  const { velocity, ratio, error, fine, model } = panel;
  const half = (velocity[1] - velocity[0]) / 2, missing = gaps(velocity, ratio);
  const low = ratio.map((value, k) => (value === null ? null : value - error[k])), high = ratio.map((value, k) => (value === null ? null : value + error[k]));
  const flat = { points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }) };
  // Steps begin half a pixel before its middle; the profile has places of its own.
  const data = uPlot.join([[[...velocity.map((v) => v - half), velocity.at(-1) + half], ...[high, low, ratio].map(ended)], [fine, model ?? fine.map(() => null)]], [[1, 1, 1], [2]]);
  const steps = data[1].map((_, k) => k);
  fillSteps(data, steps);
  plot(place, {
    width,
    height: 150,
    series: [
      {},
      { ...flat, width: 0, stroke: "transparent" },
      { ...flat, width: 0, stroke: "transparent" },
      { ...flat, width: 1.1, stroke: INK },
      { points: { show: false }, width: panel.strong ? 1.8 : 1.3, stroke: VERMILLION, dash: panel.strong ? [] : [5, 3], spanGaps: true },
    ],
    bands: [{ series: [1, 2], fill: "rgba(0, 114, 178, 0.18)" }],
    hooks: {
      drawClear: [(u) => shade(u, missing, GAP)],
      drawAxes: [(u) => { rule(u, 1, { colour: ORANGE, across: true }); rule(u, 0, { colour: MUTED, dash: [4, 3] }); }],
    },
  }, data, { x: [velocity[0] - half, velocity.at(-1) + half], y: limits });
}

// The last step goes to the end of its pixel.
const ended = (series) => [...series, series.at(-1)];

// Between the pixels' own places a step keeps its value: what was joined in has none of its own.
function fillSteps(data, places) {
  for (const series of data.slice(1, 4)) {
    let value = null;
    for (const k of places) {
      if (series[k] === undefined) series[k] = value;
      else value = series[k];
    }
  }
}
