// The list of clips: searches, filters, orders and pages what `listing.py` has put into the page. Everything that comes from a
// run is shown as text and never as markup.
"use strict";
(() => {
const list = JSON.parse(document.getElementById("listing").textContent);
const grid = document.getElementById("grid"), form = document.getElementById("tools"), tools = form.elements;
const pagers = [...document.querySelectorAll(".pager")];
const perPage = Number(grid.dataset.perPage), numClips = list.id.length;
const INITIAL = { q: "", status: "", error: "", measure: "", low: "", high: "", verdict: "yes", sort: "", strips: "1", page: "1" };
const STATUSES = ["succeeded", "failed", "quarantined", "pending"];
const measures = list.measures, totals = "seconds in all";
measures[totals] = list.id.map((_, clip) => list.stages.reduce((sum, stage) => sum + (list.results[stage].seconds[clip] || 0), 0) || null);
let texts = null, found = [], state = { ...INITIAL };

const count = value => value.toLocaleString("en").replaceAll(",", "\u2009");
const seconds = value => value < 10 ? `${value.toFixed(2)} s` : value < 120 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)} min ${String(Math.round(value % 60)).padStart(2, "0")} s`;
const bytes = value => { let unit = 0; for (; value >= 1000 && unit < 4; unit++) value /= 1000; return `${unit ? value.toFixed(1) : value} ${["B", "kB", "MB", "GB", "TB"][unit]}`; };
const verdicts = new Set(Object.keys(measures).filter(name => typeof measures[name].find(value => value !== null) === "boolean"));
const isVerdict = name => verdicts.has(name);
const errorName = clip => { const place = list.error ? list.error[clip] : -1; return place < 0 ? "" : `${list.errors[place][0]} ${list.errors[place][1]}`; };

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// 1. What is shown: the clips that fit, in their order.

function search() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length && texts === null) texts = list.prompt.map(prompt => prompt.toLowerCase());
  // Ids by how they begin: any digits are somewhere in some of them.
  const has = (clip, word) => texts[clip].includes(word) || (word.length > 5 && list.id[clip].startsWith(word)) || (list.source && list.source[clip].toLowerCase() === word);
  const values = measures[state.measure], low = state.low === "" ? -Infinity : Number(state.low), high = state.high === "" ? Infinity : Number(state.high);
  const fits = !values ? null : isVerdict(state.measure) ? value => value === (state.verdict === "yes") : value => value !== null && value >= low && value <= high;
  // A number that was chosen but not bounded yet leaves nothing out.
  const bounded = fits && (isVerdict(state.measure) || state.low !== "" || state.high !== "");
  found = [];
  for (let clip = 0; clip < numClips; clip++)
    if ((!state.status || list.status[clip] === state.status) && (!state.error || errorName(clip) === state.error)
        && (!bounded || fits(values[clip])) && words.every(word => has(clip, word)))
      found.push(clip);
  if (state.sort) {
    const by = measures[state.sort.slice(1)], sign = state.sort[0] === "-" ? -1 : 1;
    // Clips without the value come last either way.
    found.sort((a, b) => (by[a] === null) - (by[b] === null) || sign * (by[a] - by[b]) || a - b);
  }
}

// 2. One clip.

function href(clip, stage) {
  const rest = list.results[stage].key[clip];
  const key = rest.startsWith("/") ? rest.slice(1) : `artifacts/${stage}/${list.id[clip]}.${rest}`;
  return "../" + key.split("/").map(encodeURIComponent).join("/");
}

function view(clip) {
  const stages = list.stages.filter(stage => list.results[stage].key[clip]);
  const movie = stages.findLast(stage => list.results[stage].key[clip].endsWith(".mp4"));
  const image = stages.findLast(stage => list.results[stage].key[clip].endsWith(".png"));
  const nothing = text => make("div", { className: "none" }, text);
  if (!movie && !image) return nothing(stages.length ? "frames are in the artifacts" : "no frames");
  const what = movie
    ? make("video", { controls: true, loop: true, muted: true, playsInline: true, preload: "metadata" })
    : make("img", { alt: list.prompt[clip], loading: "lazy", src: href(clip, image) });
  if (movie) {
    what.setAttribute("aria-label", list.prompt[clip]);
    what.dataset.src = href(clip, movie);
  }
  what.addEventListener("error", () => what.replaceWith(nothing(`${movie ? "the video" : "the image"} is not there, or this browser cannot show it`)));
  return what;
}

function strip(clip) {
  const stages = list.stages.filter(stage => list.results[stage].key[clip]);
  const image = make("img", { alt: `frames of ${stages.join(", ")}`, loading: "lazy", src: list.picture[clip] });
  const figure = make("figure", { className: "strip" }, make("ol", {}, ...stages.map(stage => make("li", {}, stage))), image);
  image.addEventListener("error", () => figure.remove());
  return figure;
}

function details(clip) {
  const rows = [["stage", "status", "time", "size"].map(title => make("th", {}, title))];
  for (const stage of list.stages) {
    const own = list.results[stage], status = own.status[clip] || "pending";
    const name = own.key[clip] ? make("a", { href: href(clip, stage) }, stage) : stage;
    const cells = [name, make("span", { className: `pill ${status}` }, status), own.seconds[clip] === null ? "" : seconds(own.seconds[clip]), own.bytes[clip] === null ? "" : bytes(own.bytes[clip])];
    rows.push(cells.map(cell => make("td", {}, cell)));
  }
  const parts = [make("table", {}, ...rows.map(cells => make("tr", {}, ...cells)))];
  const known = Object.keys(measures).filter(name => name !== totals && measures[name][clip] !== null);
  if (known.length)
    parts.push(make("table", {}, ...known.map(name => make("tr", {}, make("td", {}, name), make("td", { className: "num" }, typeof measures[name][clip] === "boolean" ? (measures[name][clip] ? "yes" : "no") : String(measures[name][clip]))))));
  const facts = [`clip ${list.id[clip]}`, `seed ${list.seed[clip]}`];
  if (list.source && list.source[clip]) facts.push(`id ${list.source[clip]}`);
  if (list.negative && list.negative[clip]) facts.push(`negative prompt: ${list.negative[clip]}`);
  parts.push(...facts.map(fact => make("p", { className: "mono soft" }, fact)));
  return parts;
}

function card(clip) {
  const words = make("div", { className: "words" }, make("p", {}, list.prompt[clip]));
  const place = list.error ? list.error[clip] : -1;
  if (place >= 0) {
    const [stage, type, attempt, message, traceback] = list.errors[place];
    const tries = attempt > 1 ? `, attempt ${attempt}` : "";
    words.append(make("p", { className: "error" }, make("b", {}, type), ` in ${stage}${tries}: ${message}`));
    if (traceback) words.append(make("details", {}, make("summary", {}, "traceback"), make("pre", {}, traceback)));
  }
  if (list.picture && list.picture[clip]) words.append(strip(clip));
  const total = measures[totals][clip];
  words.append(make("div", { className: "meta" }, make("span", { className: `pill ${list.status[clip]}` }, list.status[clip]), ...(total === null ? [] : [make("span", {}, seconds(total))]), make("span", { className: "mono" }, list.id[clip])));
  const more = make("details", {}, make("summary", {}, "details"));
  more.addEventListener("toggle", () => { if (more.open && more.children.length === 1) more.append(...details(clip)); });
  words.append(more);
  const article = make("article", { className: "card" }, view(clip), words);
  article.dataset.clip = list.id[clip];
  return article;
}

// 3. A page of them. Loads videos near the screen and plays what is on it, only that; whoever asked for less motion plays by hand.

const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const watch = new IntersectionObserver(entries => entries.forEach(({ target, isIntersecting }) =>
  isIntersecting && !still ? target.play().catch(() => {}) : target.pause()), { threshold: 0.4 });

const near = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(({ target }) => {
  near.unobserve(target);
  target.src = target.dataset.src;
  watch.observe(target);
}), { rootMargin: "300px" });

function render() {
  const numPages = Math.max(Math.ceil(found.length / perPage), 1);
  const page = Math.min(Math.max(Math.round(Number(state.page)) || 1, 1), numPages);
  state.page = String(page);
  watch.disconnect();
  near.disconnect();
  // Else they would go on loading.
  grid.querySelectorAll("video").forEach(video => { video.removeAttribute("src"); video.load(); });
  grid.classList.toggle("no-strips", state.strips !== "1");
  const shown = found.slice((page - 1) * perPage, page * perPage);
  grid.replaceChildren(...shown.map(card));
  if (!shown.length) grid.append(make("p", { className: "soft" }, numClips ? "No clip is like that." : "The run has no clips yet."));
  grid.querySelectorAll("video").forEach(video => near.observe(video));
  const range = shown.length ? `${count((page - 1) * perPage + 1)}–${count((page - 1) * perPage + shown.length)} of ` : "";
  const of = found.length < numClips ? `${count(found.length)} clips found among ${count(numClips)}` : `${count(numClips)} clips`;
  pagers.forEach((pager, place) => {
    const go = target => { state.page = String(target); show(); if (place) document.getElementById("clips").scrollIntoView(); };
    const button = (text, target) => make("button", { type: "button", disabled: target < 1 || target > numPages, onclick: () => go(target) }, text);
    const box = make("input", { type: "number", min: 1, max: numPages, value: page, onchange: event => go(event.target.value) });
    box.setAttribute("aria-label", "page");
    const steps = numPages > 1 ? [button("‹ previous", page - 1), box, `of ${count(numPages)}`, button("next ›", page + 1)] : [];
    pager.replaceChildren(make("span", { className: "count" }, range + of), ...steps);
    pager.hidden = place > 0 && numPages === 1;
  });
}

// 4. The tools, and the address: it names the choice, so that it can be kept and sent.

function show() {
  const changed = Object.keys(INITIAL).filter(name => state[name] !== INITIAL[name]);
  search();
  render();
  const words = new URLSearchParams(changed.map(name => [name, state[name]])).toString();
  try { history.replaceState(null, "", words ? `#clips?${words}` : location.href.split("#")[0] + (location.hash.startsWith("#clips?") ? "#clips" : location.hash)); } catch { /* Some places refuse: the choice is then not in the address. */ }
  for (const each of form.querySelectorAll("[data-for]")) {
    const kind = each.dataset.for, verdict = state.measure && isVerdict(state.measure);
    each.hidden = kind === "range" ? !state.measure || verdict : kind === "verdict" ? !verdict : kind === "error" ? !list.errors.length : !list.picture;
  }
}

function fill() {
  for (const [name, value] of Object.entries(state)) {
    if (name === "strips") tools.strips.checked = value === "1";
    else if (tools[name]) tools[name].value = value;
  }
  if (state.measure && !isVerdict(state.measure)) {
    const values = measures[state.measure].filter(value => value !== null);
    const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
    tools.low.placeholder = low.toPrecision(3);
    tools.high.placeholder = high.toPrecision(3);
  }
}

function readAddress() {
  state = { ...INITIAL };
  if (!location.hash.startsWith("#clips?")) return;
  for (const [name, value] of new URLSearchParams(location.hash.slice("#clips?".length))) if (name in INITIAL) state[name] = value;
  if (!(state.measure in measures)) state.measure = "";
  if (!(state.sort.slice(1) in measures)) state.sort = "";
}

const option = (value, text) => make("option", { value }, text);
const tally = new Map();
for (let clip = 0; clip < numClips; clip++) {
  tally.set(list.status[clip], (tally.get(list.status[clip]) || 0) + 1);
  const error = errorName(clip);
  if (error) tally.set(`error ${error}`, (tally.get(`error ${error}`) || 0) + 1);
}
tools.status.append(option("", "any"), ...STATUSES.filter(name => tally.has(name)).map(name => option(name, `${name} (${count(tally.get(name))})`)));
tools.error.append(option("", "any"), ...[...tally.keys()].filter(name => name.startsWith("error ")).map(name => option(name.slice(6), `${name.slice(6)} (${count(tally.get(name))})`)));
const names = Object.keys(measures).filter(name => measures[name].some(value => value !== null));
tools.measure.append(option("", "any"), ...names.map(name => option(name, name.replaceAll("_", " "))));
tools.sort.append(option("", "as planned"), ...names.filter(name => !isVerdict(name)).flatMap(name => [option(`+${name}`, `${name.replaceAll("_", " ")}, least first`), option(`-${name}`, `${name.replaceAll("_", " ")}, most first`)]));

form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("reset", event => { event.preventDefault(); state = { ...INITIAL }; fill(); show(); });
form.addEventListener("input", event => {
  const { name, type, checked, value } = event.target;
  state[name] = type === "checkbox" ? (checked ? "1" : "") : value;
  if (name === "measure") state.low = state.high = "";
  if (name !== "strips") state.page = "1";
  fill();
  show();
});
document.querySelectorAll("button[data-type]").forEach(button => button.addEventListener("click", () => {
  state = { ...INITIAL, status: button.dataset.status, error: `${button.dataset.stage} ${button.dataset.type}` };
  fill();
  show();
  document.getElementById("clips").scrollIntoView();
}));
addEventListener("hashchange", () => { readAddress(); fill(); show(); });
readAddress();
form.hidden = false;
pagers[0].hidden = false;
fill();
show();
if (location.hash.startsWith("#clips?")) document.getElementById("clips").scrollIntoView();
})();
