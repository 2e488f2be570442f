// Plots that are zoomed: by dragging, by two fingers, by buttons; a double click or tap shows all again.

export const INK = "#222222", MUTED = "#6b6b6b", BLUE = "#0072b2", ORANGE = "#e69f00", VERMILLION = "#d55e00";
export const FONT = "11px system-ui, sans-serif";
const GRID = "#eceff2";

let plots = [];

// Before the next system is drawn.
export function clear(place) {
  for (const plot of plots) plot.destroy();
  plots = [];
  place.replaceChildren();
}

export function element(tag, className = "", text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

// `ranges` is what is shown at first, { x: [low, high], y: [low, high] }.
export function plot(place, options, data, ranges) {
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

export function zoom(made, factor) {
  const { min, max } = made.scales.x, middle = (min + max) / 2, half = ((max - min) / 2) * factor;
  made.setScale("x", { min: middle - half, max: middle + half });
}

export function shade(made, ranges, colour) {
  const { ctx, bbox } = made;
  ctx.save();
  ctx.fillStyle = colour;
  for (const [low, high] of ranges) {
    const a = Math.max(made.valToPos(low, "x", true), bbox.left), b = Math.min(made.valToPos(high, "x", true), bbox.left + bbox.width);
    if (b > a) ctx.fillRect(a, bbox.top, b - a, bbox.height);
  }
  ctx.restore();
}

export function rule(made, value, { from = 0, colour, dash = [], across = false }) {
  const { ctx, bbox } = made, place = made.valToPos(value, across ? "y" : "x", true);
  const inside = across ? place >= bbox.top && place <= bbox.top + bbox.height : place >= bbox.left && place <= bbox.left + bbox.width;
  if (!inside) return;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.globalAlpha = 0.75;
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash(dash.map((length) => length * devicePixelRatio));
  ctx.beginPath();
  if (across) { ctx.moveTo(bbox.left, place); ctx.lineTo(bbox.left + bbox.width, place); }
  else { ctx.moveTo(place, bbox.top); ctx.lineTo(place, bbox.top + bbox.height * (1 - from)); }
  ctx.stroke();
  ctx.restore();
}
