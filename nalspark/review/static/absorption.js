// An absorber: its spectrum with the continuum and the searched path, and its lines in velocity. Drag: zoom; double-click or -tap: all.

const INK = "#222222", MUTED = "#6b6b6b", GRID = "#eceff2", SHADE = "#e6eef6", GAP = "#dfe1e5";
const BLUE = "#0072b2", ORANGE = "#e69f00", VERMILLION = "#d55e00";
const FONT = "11px system-ui, sans-serif", BOLD = "bold 11px system-ui, sans-serif";
//: Å shown on either side of the doublet.
const BESIDE = 90;

let plots = [];

export function draw(place, picture) {
  for (const plot of plots) plot.destroy();
  plots = [];
  const wide = document.createElement("div"), panels = document.createElement("div");
  wide.className = "wide";
  panels.className = "panels";
  place.replaceChildren(wide, panels);
  drawSpectrum(wide, picture.spectrum, picture.lines);
  const cells = picture.panels.each.map((panel) => cell(panels, panel));
  const width = cells.length ? cells[0].clientWidth : 0;
  picture.panels.each.forEach((panel, k) => drawPanel(cells[k], width, panel, picture.panels.limits));
}

// A plot that is zoomed by dragging, by two fingers, and back by a double click.
function plot(place, options, data, ranges) {
  const narrow = window.innerWidth < 860;
  const reset = (made) => made.batch(() => {
    made.setScale("x", { min: ranges.x[0], max: ranges.x[1] });
    made.setScale("y", { min: ranges.y[0], max: ranges.y[1] });
  });
  const axis = { stroke: INK, font: FONT, grid: { stroke: GRID, width: 1 }, ticks: { stroke: GRID, width: 1, size: 4 }, gap: 3 };
  const made = new uPlot({
    legend: { show: false },
    scales: { x: { time: false, range: (_, min, max) => [min, max] }, y: { auto: false, range: (_, min, max) => [min, max] } },
    axes: [{ ...axis, size: 24, space: 45 }, { ...axis, size: narrow ? 30 : 36, space: 28 }],
    cursor: { drag: { x: true, y: true, uni: 24, dist: 5, setScale: true }, points: { show: false }, bind: { dblclick: () => () => { reset(made); return null; } } },
    padding: [6, 6, 0, 0],
    ...options,
  }, data, place);
  reset(made);
  twoFingers(made, reset);
  plots.push(made);
  return { made, reset: () => reset(made) };
}

function twoFingers(made, reset) {
  let start = null, tapped = 0;
  const places = (event) => [...event.touches].map((touch) => touch.clientX - made.over.getBoundingClientRect().left);
  made.over.addEventListener("touchstart", (event) => {
    start = event.touches.length === 2 ? places(event).map((x) => made.posToVal(x, "x")) : null;
    if (start) event.preventDefault();
  }, { passive: false });
  made.over.addEventListener("touchmove", (event) => {
    if (!start || event.touches.length !== 2) return;
    event.preventDefault();
    const [a, b] = places(event), width = made.over.clientWidth;
    if (Math.abs(b - a) < 12) return;
    const unit = (start[1] - start[0]) / (b - a);  // what is under the fingers stays under them
    if (unit > 0) made.setScale("x", { min: start[0] - a * unit, max: start[0] + (width - a) * unit });
  }, { passive: false });
  made.over.addEventListener("touchend", (event) => {
    if (event.touches.length || start) return;
    if (event.timeStamp - tapped < 300) reset(made);
    tapped = event.timeStamp;
  });
}

function zoom(made, factor) {
  const { min, max } = made.scales.x, middle = (min + max) / 2, half = ((max - min) / 2) * factor;
  made.setScale("x", { min: middle - half, max: middle + half });
}

function shade(made, ranges, colour) {
  const { ctx, bbox } = made;
  ctx.save();
  ctx.fillStyle = colour;
  for (const [low, high] of ranges) {
    const a = Math.max(made.valToPos(low, "x", true), bbox.left), b = Math.min(made.valToPos(high, "x", true), bbox.left + bbox.width);
    if (b > a) ctx.fillRect(a, bbox.top, b - a, bbox.height);
  }
  ctx.restore();
}

function rule(made, value, { from = 0, colour, dash = [], across = false }) {
  const { ctx, bbox } = made, place = made.valToPos(value, across ? "y" : "x", true);
  const inside = across ? place >= bbox.top && place <= bbox.top + bbox.height : place >= bbox.left && place <= bbox.left + bbox.width;
  if (!inside) return;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash(dash.map((length) => length * devicePixelRatio));
  ctx.beginPath();
  if (across) { ctx.moveTo(bbox.left, place); ctx.lineTo(bbox.left + bbox.width, place); }
  else { ctx.moveTo(place, bbox.top); ctx.lineTo(place, bbox.top + bbox.height * (1 - from)); }
  ctx.stroke();
  ctx.restore();
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
  const tools = document.createElement("div");
  tools.className = "tools";
  const near = () => made.setScale("x", { min: Math.min(...pair) - BESIDE, max: Math.max(...pair) + BESIDE });
  for (const [text, title, work] of [
    ["−", "zoom out", () => zoom(made, 2)],
    ["+", "zoom in", () => zoom(made, 0.5)],
    ["doublet", "zoom to the doublet", near],
    ["all", "the whole spectrum (double click)", reset],
  ]) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: text, title });
    button.addEventListener("click", () => { work(); button.blur(); });
    tools.append(button);
  }
  place.append(tools);
}

function cell(panels, panel) {
  const made = document.createElement("div"), title = document.createElement("h3");
  made.className = panel.strong ? "panel strong" : "panel";
  for (const text of [panel.name, panel.width]) title.append(Object.assign(document.createElement("span"), { textContent: text }));
  made.append(title);
  panels.append(made);
  return made;
}

// Where there is no data, as ranges of velocity.
function gaps(velocity, ratio) {
  const half = (velocity[1] - velocity[0]) / 2;
  return velocity.flatMap((v, k) => (ratio[k] === null ? [[v - half, v + half]] : []));
}

function drawPanel(place, width, panel, limits) {
  const { velocity, ratio, error, fine, model } = panel;
  const half = (velocity[1] - velocity[0]) / 2, missing = gaps(velocity, ratio);
  const low = ratio.map((value, k) => (value === null ? null : value - error[k])), high = ratio.map((value, k) => (value === null ? null : value + error[k]));
  const flat = { points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }) };
  // Steps begin half a pixel before its middle; the profile has places of its own.
  const data = uPlot.join([[velocity.map((v) => v - half), high, low, ratio], [fine, model ?? fine.map(() => null)]], [[1, 1, 1], [2]]);
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
