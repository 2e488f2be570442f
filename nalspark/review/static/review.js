// One system after the other: what is shown, what is said of it, and that it is kept before the next one comes.
// Whatever comes from the server is put in as text, never as HTML.

const $ = (id) => document.getElementById(id);
const AHEAD = 3, KEPT = 40, RETRY_MS = 1000;
// A label that is not answered by then is sent again; the same one twice is kept once.
const ANSWER_MS = 10_000;

let facts, draw, reviewer;
let list = [], at = -1, shownAt = -1, progress = {};
let saving = false, reloading = false, loading = false, asked = 0, lists = 0;
const pictures = new Map();  // number of a system → promise of all that is shown of it
const drafts = new Map();  // number → a note that no label has yet

function make(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  Object.assign(made, attributes);
  return made;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// ---- the server

async function answer(response) {
  const tree = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(tree.error || `the server answers ${response.status}`), { status: response.status });
  return tree;
}

const get = async (path, query = {}) => answer(await fetch(`${path}?${new URLSearchParams({ reviewer, ...query })}`));

const post = async (path, tree) =>
  answer(await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(tree),
    signal: AbortSignal.timeout(ANSWER_MS),
  }));

// Ask until it is answered: the same label twice is kept once, so nothing is lost and nothing doubled by a server that was killed.
async function keep(path, tree) {
  for (;;) {
    try {
      const kept = await post(path, tree);
      notice("");
      return kept;
    } catch (error) {
      if (error.status === 400 || error.status === 413) throw error;
      const why = error.status === 403 ? "The server was started anew: open the address that it printed in another tab." : `${error.message}.`;
      notice(`Not kept yet. ${why}\nThis page asks again every second; leave it open.`);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

// ---- pictures

function picture(number) {
  if (!pictures.has(number)) {
    const promise = get(`/api/system/${number}`);
    promise.catch(() => pictures.delete(number));
    pictures.set(number, promise);
    for (const old of pictures.keys()) {
      if (pictures.size <= KEPT) break;
      pictures.delete(old);
    }
  }
  return pictures.get(number);
}

function fetchAhead() {
  let next = at;
  for (let k = 0; k < AHEAD; k++) {
    next = following(next);
    if (next < 0) break;
    picture(list[next].number).catch(() => {});
  }
  if (at + 1 < list.length) picture(list[at + 1].number).catch(() => {});
}

// Where to go after a label: the next that has none, or one left behind; in a list of labelled ones simply the next.
function following(from) {
  const open = (entry, k) => entry.class === null && k !== at;
  const later = list.findIndex((entry, k) => k > from && open(entry, k));
  if (later >= 0) return later;
  const earlier = list.findIndex((entry, k) => k < at && open(entry, k));
  if (earlier >= 0) return from < at && earlier <= from ? -1 : earlier;
  return from + 1 < list.length ? from + 1 : -1;
}

async function show(position) {
  if (position < 0 || position >= list.length) return;
  at = position;
  const number = list[at].number, turn = ++asked;
  sessionStorage.setItem("number", String(number));
  $("picture").classList.add("waiting");
  let system;
  try {
    system = await picture(number);
  } catch (error) {
    if (turn === asked) notice(`${list[at].name} cannot be shown: ${error.message}`);
    return;
  }
  if (turn !== asked) return;
  render(system);
  fetchAhead();
}

function render(system) {
  $("name").textContent = system.system;
  $("place").textContent = `${at + 1} of ${list.length}`;
  renderLabel(system.label);
  $("remarks").className = system.remarks.length ? "" : "none";
  $("remarks").replaceChildren(...system.remarks.map((remark, k) => make("span", (k ? ", " : "") + remark.text, { title: remark.meaning })));
  if (!system.remarks.length) $("remarks").textContent = "no flags";
  const unit = (fact) => (fact.unit === "Angstrom" ? "Å" : fact.unit);
  $("first").replaceChildren(...system.facts.filter((fact) => fact.first).map((fact) => {
    const pair = make("div", "", { title: fact.meaning });
    pair.append(make("dt", fact.name), make("dd", `${fact.text} ${unit(fact)}`.trim()));
    return pair;
  }));
  $("all").replaceChildren(...system.facts.map((fact) => {
    const row = make("tr");
    row.append(make("td", fact.name), make("td", `${fact.text} ${unit(fact)}`.trim()), make("td", fact.meaning));
    return row;
  }));
  $("note").value = drafts.get(system.number) ?? system.label?.note ?? "";
  draw($("picture"), system.picture);
  $("picture").classList.remove("waiting");
  shownAt = at;
  document.body.dataset.shown = String(system.number);
}

function renderLabel(label) {
  const chosen = label ? `${label.class} ${label.reason}` : null;
  for (const button of document.querySelectorAll("#classes button, #reasons button")) {
    const { cls, reason } = button.dataset;
    button.classList.toggle("chosen", Boolean(label) && (reason ? `${cls} ${reason}` === chosen : cls === label.class));
  }
  $("given").hidden = !label;
  if (label) $("given").textContent = facts.texts[label.class] + (label.reason ? `: ${label.reason}` : "");
}

function renderProgress() {
  const rate = progress.per_minute === null || progress.per_minute === undefined ? "" : ` · ${progress.per_minute.toFixed(0)} a minute`;
  $("progress").textContent = `${progress.labelled} of ${progress.total} labelled${rate}`;
  $("bar").value = progress.total ? progress.labelled / progress.total : 0;
  $("undo").disabled = !progress.last;
  document.body.dataset.labelled = String(progress.labelled);
}

function took({ labelled, total, per_minute, last }) {
  progress = { labelled, total, per_minute, last };
  renderProgress();
}

// ---- what is said

async function whileSaving(work) {
  if (saving) return;
  saving = true;
  document.body.dataset.saving = "1";
  try {
    await work();
  } catch (error) {
    notice(error.message);
  } finally {
    saving = false;
    document.body.dataset.saving = "";
    if (reloading) reload();
  }
}

// By this a server that was started anew with other systems, or blind, refuses a label of what was seen before.
const seenWith = () => ({ systems: facts.systems, blind: facts.blind, look: facts.look });

function say(cls, reason = "", { stay = false } = {}) {
  if (loading || at < 0 || shownAt !== at) return;  // what is not on the screen is not labelled
  return whileSaving(async () => {
    const entry = list[at], note = $("note").value.trim(), label_id = newId();
    const system = await picture(entry.number);
    took(await keep("/api/label", { label_id, number: entry.number, ...seenWith(), reviewer, class: cls, reason, note }));
    entry.class = cls;
    system.label = { label_id, class: cls, reason, note };
    drafts.delete(entry.number);
    renderLabel(system.label);
    const next = stay ? -1 : following(at);
    if (next >= 0) await show(next);
    else if (!stay) notice("That was the last one of this list.");
  });
}

function undo() {
  if (loading) return;
  return whileSaving(async () => {
    if (!progress.last) return;
    const gone = await keep("/api/undo", { label_id: newId(), undoes: progress.last.label_id, reviewer });
    took(gone);
    if (gone.number === null) return;
    pictures.delete(gone.number);
    const system = await picture(gone.number);
    let position = list.findIndex((entry) => entry.number === gone.number);
    if (position < 0) {
      list.splice(Math.max(at, 0), 0, { number: gone.number, name: system.system, class: null, value: null });
      position = Math.max(at, 0);
    }
    list[position].class = system.label?.class ?? null;
    await show(position);
  });
}

function move(step) {
  if (!saving && !loading && at + step >= 0 && at + step < list.length) show(at + step);
}

function noteKey(event) {
  if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey)) {
    event.preventDefault();
    $("note").blur();
    if (event.key === "Enter" && shownAt === at && at >= 0) {
      picture(list[at].number).then((system) => system.label && say(system.label.class, system.label.reason, { stay: true }));
    }
  }
}

function key(event) {
  const field = event.target.closest?.("input, textarea, select");
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || field || event.repeat) return;
  const choice = facts.choices.find((one) => one.key === event.key);
  const others = { ArrowRight: () => move(1), ArrowLeft: () => move(-1), z: undo, Backspace: undo, e: toNote, Enter: toNote };
  const work = choice ? () => say(choice.cls, choice.reason) : others[event.key];
  if (!work || (event.key === "Enter" && event.target.closest?.("button, summary"))) return;
  event.preventDefault();
  work();
}

const toNote = () => $("note").focus();

// ---- lists

async function load(number = null) {
  const query = { show: $("show").value, sort: $("sort").value, descending: $("direction").dataset.down ? "1" : "0" };
  for (const [name, value] of Object.entries(query)) sessionStorage.setItem(name, value);
  const turn = ++lists;
  loading = true;  // until it is here, what is on the screen is of the list before, and keys say nothing of it
  asked++;  // nor is a picture of that list shown which is on its way
  delete document.body.dataset.shown;
  $("picture").classList.add("waiting");
  let found;
  try {
    found = await get("/api/systems", query);
  } catch (error) {
    if (turn === lists) {
      loading = false;
      await show(at);
    }
    throw error;
  }
  if (turn !== lists) return;  // another one was asked for since
  loading = false;
  list = found.systems.map(([number, name, cls, value]) => ({ number, name, class: cls, value }));
  took(found);
  at = shownAt = -1;
  if (!list.length) return nothing();
  const same = number === null ? -1 : list.findIndex((entry) => entry.number === number);
  const open = list.findIndex((entry) => entry.class === null);
  await show(same >= 0 ? same : Math.max(open, 0));
}

function reload() {
  reloading = saving;  // what is being kept belongs to the list as it was
  if (!saving) load().catch((error) => notice(error.message));
}

function nothing() {
  for (const id of ["name", "place"]) $(id).textContent = "";
  for (const id of ["remarks", "first", "all", "picture"]) $(id).replaceChildren();
  $("picture").classList.remove("waiting");
  renderLabel(null);
  const why = facts.look > 1 && !progress.total ? "You have not labelled any of these systems yet." : "No system is left in this list.";
  $("name").textContent = why;
}

// "12": the twelfth; ">1.5", "<1.5": the next with such a value of what the list is sorted by; else part of a name.
function jump(text) {
  if (loading) return;
  text = text.trim();
  const bound = /^([<>])=?\s*(-?[\d.]+(?:e-?\d+)?)$/i.exec(text);
  const after = [...list.keys()].map((k) => (at + 1 + k) % list.length);
  let position = -1;
  if (/^\d+$/.test(text) && Number(text) >= 1 && Number(text) <= list.length) position = Number(text) - 1;
  else if (bound) {
    if (!$("sort").value) return notice("Choose a column to sort by first.");
    const fits = (value) => value !== null && (bound[1] === ">" ? value >= Number(bound[2]) : value <= Number(bound[2]));
    position = after.find((k) => fits(list[k].value)) ?? -1;
  } else if (text) position = after.find((k) => list[k].name.toLowerCase().includes(text.toLowerCase())) ?? -1;
  if (position < 0) return notice(`There is no '${text}' in this list.`);
  notice("");
  show(position);
}

// ---- the page

function fillChoices() {
  facts.texts = Object.fromEntries(facts.classes.map((one) => [one.value, one.text]));
  facts.choices = [];
  const button = (cls, choice, reason) => {
    facts.choices.push({ key: choice.key, cls, reason, text: reason ? `${facts.texts[cls]}: ${choice.text}` : choice.text });
    const made = make("button", "", { type: "button", className: choice.tone });
    made.append(make("span", `${choice.text} `), make("kbd", choice.key));
    Object.assign(made.dataset, { cls, reason });
    made.addEventListener("click", () => say(cls, reason));
    return made;
  };
  $("classes").classList.toggle("many", facts.classes.length > 4);
  $("classes").replaceChildren(...facts.classes.map((one) => button(one.value, one, "")));
  $("reasons").replaceChildren(...Object.entries(facts.reasons).map(([cls, reasons]) => {
    const group = make("div", "", { className: "reasons" }), buttons = make("div", "", { className: "buttons" });
    buttons.append(...reasons.map((one) => button(cls, one, one.value)));
    group.append(make("p", `${facts.texts[cls]}:`), buttons);
    return group;
  }));
  const keys = facts.choices.map((one) => [one.key, one.text]);
  keys.push(["z, Backspace", "undo the last label"], ["← →", "previous, next, without label"], ["e, Enter", "write a note"]);
  $("keys").replaceChildren(...keys.flatMap(([name, text]) => [make("dt", name), make("dd", text)]));
}

function fillLists() {
  const option = (value, text, title = "") => make("option", text, { value, title });
  const shows = [option("open", "without my label"), option("unseen", "without anybody's label"), option("all", "all")];
  shows.push(...facts.classes.map((one) => option(one.value, `labelled ${one.text}`)));
  $("show").replaceChildren(...shows);
  $("sort").replaceChildren(option("", "chance"), ...facts.columns.map((one) => option(one.name, one.name, one.meaning)));
  $("show").value = sessionStorage.getItem("show") ?? "open";
  $("sort").value = sessionStorage.getItem("sort") ?? "";
  if ($("show").selectedIndex < 0) $("show").value = "open";
  if ($("sort").selectedIndex < 0) $("sort").value = "";
  turn(sessionStorage.getItem("descending") === "1");
}

function turn(down) {
  $("direction").dataset.down = down ? "1" : "";
  $("direction").textContent = down ? "↓" : "↑";
}

function listen() {
  document.addEventListener("keydown", key);
  $("note").addEventListener("keydown", noteKey);
  $("note").addEventListener("input", () => at >= 0 && shownAt === at && drafts.set(list[at].number, $("note").value));
  $("previous").addEventListener("click", () => move(-1));
  $("next").addEventListener("click", () => move(1));
  $("undo").addEventListener("click", undo);
  for (const id of ["show", "sort"]) $(id).addEventListener("change", (event) => { event.target.blur(); reload(); });
  $("direction").addEventListener("click", () => { turn(!$("direction").dataset.down); reload(); });
  $("jump").addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); jump($("jump").value); $("jump").blur(); }
  });
  $("reviewer").addEventListener("change", () => {
    reviewer = $("reviewer").value.trim() || facts.reviewer;
    $("reviewer").value = reviewer;
    $("reviewer").blur();
    sessionStorage.setItem(`reviewer of ${facts.reviewer}`, reviewer);
    pictures.clear();
    drafts.clear();
    reload();
  });
  window.addEventListener("beforeunload", (event) => { if (saving) event.preventDefault(); });
  let width = window.innerWidth;  // a phone changes its height while one scrolls
  window.addEventListener("resize", () => {
    if (width === window.innerWidth) return;
    width = window.innerWidth;
    if (shownAt >= 0) picture(list[shownAt].number).then((system) => draw($("picture"), system.picture));
  });
}

async function start() {
  history.replaceState(null, "", "/");  // the token is a cookie now
  reviewer = "";
  facts = await get("/api/review");
  reviewer = sessionStorage.getItem(`reviewer of ${facts.reviewer}`) ?? facts.reviewer;
  draw = (await import(facts.script)).draw;
  document.title = `review: ${facts.title}`;
  $("title").textContent = facts.title;
  $("reviewer").value = reviewer;
  document.body.classList.toggle("blind", facts.blind);
  const badges = [...(facts.blind ? ["blind"] : []), ...(facts.look > 1 ? ["second look"] : [])];
  $("badges").replaceChildren(...badges.map((text) => make("span", text, { className: "badge" })));
  if (sessionStorage.getItem("systems") !== facts.systems) sessionStorage.removeItem("number");
  sessionStorage.setItem("systems", facts.systems);
  fillChoices();
  fillLists();
  listen();
  const before = sessionStorage.getItem("number");
  await load(before === null ? null : Number(before));
  if (facts.warnings.length) notice(facts.warnings.join("\n"));
}

start().catch((error) => notice(`The page cannot be shown: ${error.message}`));
