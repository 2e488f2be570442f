"use strict";
// The systems of a page: chosen, sorted, and drawn when they come into sight. All that comes from a catalogue is put in as text.

const facts = JSON.parse(document.getElementById("facts").textContent);
const INK = "#222", MUTED = "#5f6670", BLUE = "rgba(0, 114, 178, 0.25)", ORANGE = "#d98e00", GAP = "#e3e5e9", LINE = "#dde1e6";
// Cards that are made at once; others follow when one comes near the end of the page.
const AT_ONCE = 60;
const columnOf = Object.fromEntries(facts.columns.map((column) => [column.name, column]));
const width = columnOf[facts.width];

function make(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  return Object.assign(made, attributes);
}

// ---- what is asked for

const controls = document.getElementById("controls"), inputs = {};

function control(name, text, input, title = "") {
  const label = make("label", text, { title });
  input.setAttribute("aria-label", text);
  inputs[name] = input;
  label.append(input);
  controls.append(label);
}

function choice(name, text, options) {
  const select = make("select");
  select.append(...options.map(([value, words]) => make("option", words, { value })));
  control(name, text, select);
}

function range(column) {
  const label = make("label", column.unit ? `${column.name} (${column.unit})` : column.name, { title: column.meaning });
  const pair = make("span", "", { className: "pair" });
  for (const [end, words] of [["from", "from"], ["to", "to"]]) {
    const input = make("input", "", { type: "number", step: "any", placeholder: words });
    input.setAttribute("aria-label", `${column.name} ${words}`);
    inputs[`${column.name}.${end}`] = input;
    pair.append(input);
  }
  label.append(pair);
  controls.append(label);
}

function fillControls() {
  if (facts.catalogues.length) {
    const options = [["", "all found"]];
    facts.catalogues.forEach((name, k) => options.push([`recovered ${k}`, `recovered: also in ${name}`], [`new ${k}`, `new: not in ${name}`], [`missed ${k}`, `missed: only in ${name}`]));
    choice("show", "catalogue", options);
  }
  control("name", "spectrum", make("input", "", { type: "search", size: 16, placeholder: "part of its name" }));
  for (const name of ["z_abs", width.name, "significance", "score"]) range(columnOf[name]);
  const flags = [...new Set(facts.flags.flat())].sort();
  if (flags.length) choice("flags", "flags", [["", "any"], ["none", "none"], ...flags.map((flag) => [`has ${flag}`, flag])]);
  const sortable = facts.columns.filter((column) => !column.name.endsWith("_err"));
  choice("sort", "sort by", [["", "spectrum"], ...sortable.map((column) => [column.name, column.name])]);
  choice("order", "order", [["up", "smallest first"], ["down", "largest first"]]);
  const reset = make("button", "reset", { type: "button" });
  reset.addEventListener("click", () => { controls.reset(); show(); });
  controls.append(reset);
}

// What is asked for stands in the address, so that a selection can be sent to others.
function readAddress() {
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) if (inputs[name]) inputs[name].value = value;
}

function writeAddress() {
  const asked = Object.entries(inputs).filter(([name, input]) => input.value && !(name === "order" && input.value === "up"));
  const text = new URLSearchParams(asked.map(([name, input]) => [name, input.value])).toString();
  try {
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  } catch { /* a page within another has no address of its own */ }
}

// ---- what is shown of it

function chosen() {
  const value = (name) => inputs[name]?.value ?? "";
  const [kind, number] = value("show").split(" "), part = value("name").trim().toLowerCase(), flags = value("flags");
  const ranges = facts.columns.map((column) => {
    const [low, high] = ["from", "to"].map((end) => value(`${column.name}.${end}`));
    return { values: column.values, low: low === "" ? null : Number(low), high: high === "" ? null : Number(high) };
  }).filter(({ low, high }) => low !== null || high !== null);
  const fits = (k) => {
    const found = k < facts.n_found;
    if (kind === "missed" ? found || facts.missed_of[k - facts.n_found] !== Number(number) : !found) return false;
    if ((kind === "recovered" || kind === "new") && facts.verdicts[k][Number(number)] !== kind) return false;
    if (part && !facts.spectrum_id[k].toLowerCase().includes(part)) return false;
    const words = facts.flags[k] ?? [];
    if (flags === "none" ? words.length : flags && !words.includes(flags.slice(4))) return false;
    return ranges.every(({ values, low, high }) => values[k] !== null && (low === null || values[k] >= low) && (high === null || values[k] <= high));
  };
  const rows = facts.spectrum_id.map((_, k) => k).filter(fits);
  const sort = value("sort"), sign = value("order") === "down" ? -1 : 1;
  const keys = sort ? columnOf[sort].values : null;
  const text = new Intl.Collator("en", { numeric: true }).compare;
  const compare = keys
    ? (a, b) => (keys[a] === null) - (keys[b] === null) || sign * (keys[a] - keys[b]) || a - b
    : (a, b) => sign * text(facts.spectrum_id[a], facts.spectrum_id[b]) || a - b;
  return rows.sort(compare);
}

let rows = [], shown = 0;
const cards = document.getElementById("cards"), end = document.getElementById("end");
const ending = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && more(), { rootMargin: "800px" });

function show() {
  rows = chosen();
  shown = 0;
  cards.replaceChildren();
  const systems = rows.length === 1 ? "system" : "systems", all = facts.n_found.toLocaleString("en");
  document.getElementById("count").textContent = `${rows.length.toLocaleString("en")} ${systems}; the catalogue has ${all}`;
  document.body.dataset.count = String(rows.length);
  more();
  writeAddress();
}

function more() {
  cards.append(...rows.slice(shown, shown + AT_ONCE).map(card));
  shown = Math.min(shown + AT_ONCE, rows.length);
  ending.unobserve(end);  // observed anew it tells whether it is still in sight
  if (shown < rows.length) ending.observe(end);
}

const written = (value, digits) => (value === null ? "–" : value.toFixed(digits));

function card(k) {
  const at = (name) => columnOf[name].values[k];
  const made = make("article", "", { className: "card" }), canvas = make("canvas");
  made.append(make("h3", facts.spectrum_id[k]));
  const first = make("p", `z = ${written(at("z_abs"), 5)} · W(${width.name.slice(3)}) = ${written(at(width.name), 2)} ± ${written(at(`${width.name}_err`), 2)} Å`);
  if (at("score") !== null) first.append(` · score ${written(at("score"), 3)}`);
  made.append(first, canvas);
  canvas.dataset.row = String(k);
  const others = [
    ["significance", 1, (value) => `${value} σ`],
    ["fwhm_kms", 0, (value) => `FWHM ${value} km/s`],
    ["doublet_ratio", 2, (value) => `ratio ${value}`],
    ["z_qso", 3, (value) => `quasar at z = ${value}`],
    ["velocity_kms", 0, (value) => `${Number(value).toLocaleString("en")} km/s from it`],
  ];
  const text = others.filter(([name]) => at(name) !== null).map(([name, digits, put]) => put(written(at(name), digits))).join(" · ");
  if (text) made.append(make("p", text));
  if (facts.flags[k]?.length) made.append(make("p", `flags: ${facts.flags[k].join(", ")}`));
  const found = k < facts.n_found;
  facts.catalogues.forEach((name, number) => {
    const verdict = found ? facts.verdicts[k][number] : facts.missed_of[k - facts.n_found] === number ? "missed" : "";
    if (!verdict) return;
    const line = make("p");
    line.append(make("span", verdict, { className: verdict }), ` · ${name}`);
    made.append(line);
  });
  seen.observe(canvas);
  return made;
}

// ---- pictures

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    draw(entry.target, Number(entry.target.dataset.row));
  }
}, { rootMargin: "300px" });

function draw(canvas, k) {
  const bytes = Uint8Array.from(atob(facts.pictures[k]), (letter) => letter.charCodeAt(0));
  const { clientWidth: wide, clientHeight: high } = canvas, scale = devicePixelRatio;
  canvas.width = wide * scale;
  canvas.height = high * scale;
  const ctx = canvas.getContext("2d");
  ctx.scale(scale, scale);
  ctx.font = "10px system-ui, sans-serif";
  if (!bytes.length) {
    ctx.fillStyle = MUTED;
    ctx.fillText("the spectrum is not there", 4, 14);
    return;
  }
  const others = facts.lines.map((_, row) => row).filter((row) => !facts.doublet.includes(row));
  const top = others.length ? 0.6 * high : high, limits = limitsOf(bytes);
  facts.doublet.forEach((row, n) => panel(ctx, bytes, k, row, limits, { x: (n * wide) / 2, y: 0, w: wide / 2 - 4, h: top - 4 }));
  others.forEach((row, n) => panel(ctx, bytes, k, row, limits, { x: (n * wide) / others.length, y: top, w: wide / others.length - 4, h: high - top - 1 }));
}

const { unit, least, unused, columns } = facts.coding;

// Flux over continuum and its error in every column of a line; null where a pixel is not used.
function values(bytes, row) {
  const start = 2 * row * columns;
  return Array.from({ length: columns }, (_, k) => {
    const [flux, error] = [bytes[start + k], bytes[start + columns + k]];
    return flux === unused ? null : { flux: least + unit * flux, error: unit * error };
  });
}

// From below the deepest to above most of the doublet's pixels.
function limitsOf(bytes) {
  const flux = facts.doublet.flatMap((row) => values(bytes, row)).filter(Boolean).map((one) => one.flux).sort((a, b) => a - b);
  if (!flux.length) return [0, 1.4];
  return [Math.min(0, flux[0]), Math.max(1.3, flux[Math.floor(0.97 * (flux.length - 1))] + 0.1)];
}

function panel(ctx, bytes, k, row, [low, high], { x, y, w, h }) {
  const data = values(bytes, row), step = w / columns, middle = (columns - 1) / 2;
  const place = (value) => y + h - ((Math.min(Math.max(value, low), high) - low) / (high - low)) * h;
  ctx.save();
  ctx.strokeStyle = LINE;
  ctx.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
  data.forEach((one, c) => {
    ctx.fillStyle = one ? BLUE : GAP;
    if (!one) ctx.fillRect(x + c * step, y, step + 0.5, h);
    else ctx.fillRect(x + c * step, place(one.flux + one.error), step + 0.5, Math.max(place(one.flux - one.error) - place(one.flux + one.error), 0));
  });
  const centre = x + (middle + 0.5 + facts.shift[k] + facts.fractions[row]) * step;
  stroke(ctx, MUTED, 0.8, [3, 3], [[centre, y], [centre, y + h]]);
  stroke(ctx, ORANGE, 1, [], [[x, place(1)], [x + w, place(1)]]);
  let path = [];
  const finish = () => { if (path.length) stroke(ctx, INK, facts.doublet.includes(row) ? 1.2 : 0.9, [], path); path = []; };
  data.forEach((one, c) => {
    if (!one) return finish();
    path.push([x + c * step, place(one.flux)], [x + (c + 1) * step, place(one.flux)]);
  });
  finish();
  ctx.fillStyle = data.some(Boolean) ? INK : MUTED;
  const narrow = w < 60, name = narrow ? facts.lines[row].replace(/ (?=\d)/, "\n").split("\n") : [facts.lines[row]];
  name.forEach((text, n) => ctx.fillText(text, x + 3, narrow ? y + h - 4 - 10 * (name.length - 1 - n) : y + h - 5, w - 4));
  ctx.restore();
}

function stroke(ctx, colour, wide, dash, points) {
  ctx.beginPath();
  points.forEach(([x, y], n) => (n ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
  ctx.strokeStyle = colour;
  ctx.lineWidth = wide;
  ctx.setLineDash(dash);
  ctx.stroke();
}

// ---- the page

fillControls();
readAddress();
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("input", show);
addEventListener("hashchange", () => { controls.reset(); readAddress(); show(); });
let wide = innerWidth;
addEventListener("resize", () => {
  if (wide === innerWidth) return;
  wide = innerWidth;
  for (const canvas of cards.querySelectorAll("canvas")) seen.observe(canvas);
});
show();
