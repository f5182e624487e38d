// The page: state, controls and keys.

const byId = (id) => document.getElementById(id);
const index = JSON.parse(byId("index").textContent);
const store = new PixelStore(index), view = new SharedView();
const colours = fromBase64(index.colours);
const names = index.layouts.flat().map(([name]) => name);
const has = { given: names.includes("given"), truth: names.includes("target"), drift: index.images.some((image) => image.predictions.some((one) => one.drift !== null)) };
const state = { place: 0, method: 0, beside: -1, layer: "interval", slide: 0, overlay: "none", opacity: 1, missed: false, highlight: false, wide: index.scale_end / 2, sort: "name", descending: false, filter: "" };
const wideEnd = Math.min(1, 1.5 * index.scale_end);
let shown = null; // {place, pixels} that the panels show

const LAYERS = [
  { key: "1", name: "Input", layer: "given", is: has.given },
  { key: "2", name: "Lower", layer: "interval", slide: -1, is: true },
  { key: "3", name: "Estimate", layer: "interval", slide: 0, is: true },
  { key: "4", name: "Upper", layer: "interval", slide: 1, is: true },
  { key: "5", name: "Truth", layer: "target", is: has.truth },
].filter((one) => one.is);
const OVERLAYS = [
  { key: "n", name: "None", overlay: "none", is: true },
  { key: "s", name: "Size", overlay: "size", is: true },
  { key: "e", name: "Error", overlay: "error", is: has.truth },
].filter((one) => one.is);
const SORTS = [["name", "name", false], ["size", "mean size", true], ["risk", "risk", true], ["drift", "drift p-value", false]]
  .filter(([key]) => (key !== "risk" || has.truth) && (key !== "drift" || has.drift));

const list = new ImageList(index, choose);
const handlers = { pick, hover, move, change: () => panels.forEach((panel) => panel.draw()) || showZoom() };
const panels = [new Panel(view, handlers), new Panel(view, handlers)];

// ---------------------------------------------------------------- what is shown

/** The panels in use: [panel, index of its method]. */
function inUse() {
  return state.beside < 0 ? [[panels[0], state.method]] : [[panels[0], state.method], [panels[1], state.beside]];
}

async function choose(place) {
  if (place === undefined) return;
  state.place = place;
  list.select(place);
  const image = index.images[place];
  byId("name").textContent = byId("name").title = image.name;
  byId("announcement").textContent = `${image.name}, image ${list.order.indexOf(place) + 1} of ${list.order.length}`;
  setBusy(!shown || shown.place !== place); // what stands there still is of another image
  let pixels;
  try {
    pixels = await store.get(place);
  } catch (error) {
    byId("warnings").append(make("li", { textContent: `⚠ The pixels of ${image.name} cannot be read: ${error.message}. Browsers from 2023 on can.` }));
    return;
  }
  if (state.place !== place) return; // the user went on
  const isOther = !shown || shown.pixels.width !== pixels.width || shown.pixels.height !== pixels.height;
  if (isOther) {
    view.reset();
    view.cursor = view.hover = null;
  }
  shown = { place, pixels };
  setBusy(false);
  show();
  const next = list.after(1);
  if (next !== undefined) store.get(next).catch(() => {}); // ready before it is asked for
}

function setBusy(isBusy) {
  for (const id of ["panels", "reading"]) byId(id).setAttribute("aria-busy", isBusy);
}

let isAsked = false;
/** Draw all that depends on the state, once before the next frame. */
function show() {
  if (isAsked) return;
  isAsked = true;
  requestAnimationFrame(() => {
    isAsked = false;
    if (shown) showNow();
  });
}

function showNow() {
  const look = { ...state, scaleEnd: index.scale_end, wideEnd };
  const used = inUse(), { pixels } = shown;
  byId("panels").className = used.length === 2 ? "two" : "";
  panels[1].element.hidden = used.length === 1;
  for (const [panel, side] of used) {
    paint(panel.picture, pixels, side, look, colours);
    describe(panel, side);
    panel.draw();
  }
  paintHistogram(byId("histogram"), mapsOf(pixels, state.method), look);
  showCounts(used, pixels);
  showReading();
  showControls();
  showZoom();
}

/** Caption and label of a panel. */
function describe(panel, sideIndex) {
  const values = index.images[shown.place].predictions[sideIndex], { label } = index.sides[sideIndex];
  const facts = [`mean size ${decimal(values.size, 4)}`];
  if (values.risk !== null) facts.push(`risk ${decimal(values.risk, 4)}`);
  if (values.drift !== null) facts.push(`drift p ${pValue(values.drift)}`);
  panel.caption.replaceChildren(make("strong", { textContent: label }), ` ${layerName()} · ${facts.join(" · ").replaceAll(/ (?=[\d<])|drift (?=p)/g, (gap) => gap.replace(" ", "\u00a0"))}`);
  for (const warning of values.warnings) panel.caption.append(make("span", { className: "warning", textContent: `⚠ ${warning}` }));
  panel.canvas.setAttribute("aria-label", `${index.images[shown.place].name}, ${label}, ${layerName()}; arrow keys move the pixel cursor`);
}

function layerName() {
  if (state.layer === "given") return "input";
  if (state.layer === "target") return "truth";
  if (Math.abs(state.slide) === 1 || state.slide === 0) return ["lower", "estimate", "upper"][state.slide + 1];
  return `${Math.round(100 * Math.abs(state.slide))} % from estimate to ${state.slide < 0 ? "lower" : "upper"}`;
}

/** How many pixels are too wide, and how many values lie outside. */
function showCounts(used, pixels) {
  const perMethod = (text) => used.map(([, side]) => make("span", { className: "per-method" }, ...(used.length > 1 ? [make("strong", { textContent: `${index.sides[side].label}: ` })] : []), text(mapsOf(pixels, side), side)));
  byId("wide-count").replaceChildren(...perMethod(({ size, nJudged }) => {
    let n = 0;
    for (let p = 0; p < size.length; p++) if (size[p] > state.wide) n++;
    return countText(n, nJudged, "pixels");
  }));
  byId("missed-count").replaceChildren(...(pixels.target ? perMethod(({ nMissed, nJudged }, side) => countText(nMissed, nJudged * pixels.sides[side].lower.channels, "values")) : []));
}

function countText(n, all, what) {
  return `${n.toLocaleString("en")} of ${all.toLocaleString("en")} ${what} (${percent(n / Math.max(1, all))})`;
}

function showReading() {
  const { cursor } = view, reading = byId("reading");
  byId("pixel-hint").hidden = Boolean(cursor);
  if (!cursor) return reading.replaceChildren();
  const image = index.images[shown.place], first = firstKept(image);
  const at = (k) => first + image.step * k;
  const where = make("p", { className: "where", textContent: `x ${at(cursor.x)}, y ${at(cursor.y)}` });
  if (image.step > 1) where.append(make("span", { className: "quiet", textContent: ` (the page holds a reduced image, one pixel in ${image.step} of one row in ${image.step}; this is one of them)` }));
  const tables = inUse().map(([, side]) => readingTable(index.sides[side].label, readPixel(shown.pixels, side, cursor)));
  reading.replaceChildren(where, ...tables);
}

function showZoom() {
  byId("zoom").textContent = shown ? `${Math.round(100 * panels[0].scale)} %` : "";
}

// ---------------------------------------------------------------- controls

function showControls() {
  const { beside } = state;
  for (const button of byId("layers").children) {
    const one = LAYERS[button.dataset.at];
    button.setAttribute("aria-pressed", one.layer === state.layer && (one.slide === undefined || one.slide === state.slide));
  }
  for (const button of byId("overlays").children) button.setAttribute("aria-pressed", OVERLAYS[button.dataset.at].overlay === state.overlay);
  const slide = byId("slide");
  slide.value = Math.round(100 * state.slide);
  slide.setAttribute("aria-valuetext", layerName());
  byId("slide-text").textContent = layerName();
  byId("legend").hidden = byId("opacity-label").hidden = state.overlay === "none";
  byId("legend-text").textContent = state.overlay === "error" ? "distance of the estimate from the truth" : "interval size";
  byId("missed").checked = state.missed;
  byId("highlight").checked = state.highlight;
  byId("method").value = state.method;
  byId("beside").value = beside;
  byId("swap").disabled = beside < 0;
  const wide = byId("wide"), number = byId("wide-number");
  wide.value = Math.round((1000 * state.wide) / wideEnd);
  wide.setAttribute("aria-valuetext", state.wide.toFixed(4));
  if (document.activeElement !== number) number.value = Number(state.wide.toFixed(4));
  const sides = inUse().map(([, side]) => index.sides[side]), statements = [...new Set(sides.map((side) => side.guarantee))];
  byId("guarantee").replaceChildren(...statements.map((text) => {
    const labels = sides.filter((side) => side.guarantee === text).map((side) => side.label);
    return make("span", {}, make("strong", { textContent: labels.join(" and ") }), `: ${text}`);
  }));
  byId("direction").textContent = state.descending ? "↓" : "↑";
  byId("direction").title = state.descending ? "Largest first; reverse" : "Smallest first; reverse";
}

function set(change) {
  Object.assign(state, change);
  show();
}

function arrange(change = {}) {
  Object.assign(state, change);
  list.arrange(state.sort, state.descending, state.method, state.filter);
  const n = list.order.length, all = index.images.length;
  byId("count").textContent = n === all ? `${all.toLocaleString("en")} image${all === 1 ? "" : "s"}` : `${n.toLocaleString("en")} of ${all.toLocaleString("en")} images`;
  list.select(state.place);
  showControls();
}

/** Sort anew, and go to what is then the first image. */
function sortBy(sort, descending) {
  arrange({ sort, descending });
  choose(list.order[0]);
}

function pick(pixel) {
  view.cursor = pixel;
  handlers.change();
  showReading();
}

function hover(pixel) {
  view.hover = pixel;
  handlers.change();
}

function move(dx, dy) {
  if (!shown) return;
  const { width, height } = shown.pixels, from = view.cursor || { x: Math.floor(width / 2), y: Math.floor(height / 2) };
  const to = view.cursor ? { x: from.x + dx, y: from.y + dy } : from;
  pick({ x: Math.min(Math.max(to.x, 0), width - 1), y: Math.min(Math.max(to.y, 0), height - 1) });
  panels[0].reveal(view.cursor);
}

function setMethods(method, beside) {
  set({ method, beside: beside === method ? -1 : beside });
  arrange();
}

function compare() {
  if (index.sides.length > 1) setMethods(state.method, state.beside < 0 ? (state.method + 1) % index.sides.length : -1);
}

function swap() {
  if (state.beside >= 0) setMethods(state.beside, state.method);
}

function slideBy(steps) {
  const slide = state.layer === "interval" ? state.slide : 0;
  set({ layer: "interval", slide: Math.min(1, Math.max(-1, Math.round(10 * slide + steps) / 10)) });
}

function buttons(group, all, change) {
  byId(group).replaceChildren(...all.map((one, at) => {
    const button = make("button", { type: "button" }, `${one.name} `, make("kbd", { textContent: one.key }));
    button.dataset.at = at;
    button.setAttribute("aria-keyshortcuts", one.key);
    button.addEventListener("click", () => set(change(one)));
    return button;
  }));
}

const layerChange = (one) => ({ layer: one.layer, ...(one.slide === undefined ? {} : { slide: one.slide }) });
const overlayChange = (one) => ({ overlay: one.overlay === state.overlay ? "none" : one.overlay });

// ---------------------------------------------------------------- keys

const KEYS = [
  ["j  ↓  →", "next image", ["j", "ArrowDown", "ArrowRight"], () => choose(list.after(1))],
  ["k  ↑  ←", "previous image", ["k", "ArrowUp", "ArrowLeft"], () => choose(list.after(-1))],
  ["Home  End", "first and last image", ["Home"], () => choose(list.order[0])],
  ["", "", ["End"], () => choose(list.order.at(-1))],
  ...LAYERS.map((one) => [one.key, one.name.toLowerCase(), [one.key], () => set(layerChange(one))]),
  ["[  ]", "slide towards lower, towards upper", ["["], () => slideBy(-1)],
  ["", "", ["]"], () => slideBy(1)],
  ...OVERLAYS.map((one) => [one.key, `overlay: ${one.name.toLowerCase()}`, [one.key], () => set(overlayChange(one))]),
  ...(has.truth ? [["m", "mark pixels whose truth is outside", ["m"], () => set({ missed: !state.missed })]] : []),
  ["t", "highlight intervals wider than the threshold", ["t"], () => set({ highlight: !state.highlight })],
  ...(index.sides.length > 1 ? [["c", "second method beside the first, or not", ["c"], compare], ["x", "exchange the two methods", ["x"], swap]] : []),
  ["+  −  0", "zoom in, out, fit; drag to move, wheel to zoom once the image has the focus", ["+", "="], () => panels[0].zoomBy(1.5)],
  ["", "", ["-"], () => panels[0].zoomBy(1 / 1.5)],
  ["", "", ["0"], fit],
  ["i", "to the image: arrow keys then move the pixel cursor, with Shift by ten", ["i"], () => panels[0].canvas.focus()],
  ["/", "filter by name", ["/"], () => byId("filter").focus()],
  ["?", "these keys", ["?"], () => byId("help").showModal()],
  ["Esc", "leave a field, let go of the pixel", ["Escape"], letGo],
];

function fit() {
  view.reset();
  handlers.change();
}

function letGo() {
  document.activeElement.blur();
  pick(null);
}

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || byId("help").open) return;
  const isText = target.matches("input[type=search], input[type=number]");
  const ownsArrows = isText || target.matches("input[type=range], select");
  if (key !== "Escape" && (isText || (target.matches("select") && key.length === 1))) return;
  if (ownsArrows && /^(Arrow|Home|End)/.test(key)) return;
  const found = KEYS.find(([, , keys]) => keys.includes(key));
  if (!found) return;
  event.preventDefault();
  found[3]();
});

// ---------------------------------------------------------------- once

function setUpHeader() {
  document.title = `${index.title} – Conffusion`;
  byId("title").textContent = `Calibrated intervals: ${index.title}`;
  const warnings = new Set(index.sides.flatMap((side) => side.warnings));
  byId("warnings").replaceChildren(...[...warnings].map((text) => make("li", { textContent: `⚠ ${text}` })));
  const headings = ["method", "protocol", "guarantee", "α", "δ", "λ̂", "n", "unit", "calibration images", "estimate", "mean size", "risk", "drift p"];
  byId("calibration").tHead.replaceChildren(make("tr", {}, ...headings.map((text) => make("th", { scope: "col", textContent: text }))));
  byId("calibration").tBodies[0].replaceChildren(...index.sides.map((side) => {
    const cells = [side.protocol, side.is_guaranteed ? "yes" : "none", side.alpha, side.delta, Number(side.lambda_hat.toPrecision(5)), side.n.toLocaleString("en"), side.unit, side.n_images.toLocaleString("en"), side.estimate.replaceAll("_", " "), decimal(side.mean_size, 4), decimal(side.mean_risk, 4), side.drift_p_value === null ? "–" : pValue(side.drift_p_value)];
    return make("tr", {}, make("th", { scope: "row", textContent: side.label }), ...cells.map((text) => make("td", { textContent: text })));
  }));
  const notes = [...index.notes, "Mean size and risk are means over the images of this page.", `A drift p-value of one image up to ${index.atypical} is called out; by chance a share of ${index.atypical} of the images has one.`];
  if (index.images.some((image) => image.step > 1)) notes.unshift("Large images are reduced: every k-th pixel of every k-th row is kept and nothing is averaged, so that what is read is the interval of a real pixel. Risk and mean size are those of the whole images.");
  byId("notes").replaceChildren(...notes.map((text) => make("li", { textContent: text })));
}

function setUpControls() {
  buttons("layers", LAYERS, layerChange);
  buttons("overlays", OVERLAYS, overlayChange);
  byId("panels").append(...panels.map((panel) => panel.element));
  byId("sort").replaceChildren(...SORTS.map(([value, textContent]) => make("option", { value, textContent })));
  const options = () => index.sides.map((side, value) => make("option", { value, textContent: side.label }));
  byId("method").replaceChildren(...options());
  byId("beside").replaceChildren(make("option", { value: -1, textContent: "no other" }), ...options());
  for (const id of ["method-label", "beside-label", "swap"]) byId(id).hidden = index.sides.length === 1;
  byId("missed-label").hidden = byId("missed-count").hidden = !has.truth;
  byId("scale-end").textContent = `${index.scale_end} and more`;
  byId("wide-end").textContent = `${Number(wideEnd.toPrecision(4))}${wideEnd < 1 ? " and more" : ""}`;
  const ramp = byId("ramp").getContext("2d"), picture = ramp.createImageData(256, 1);
  for (let k = 0; k < 256; k++) picture.data.set([...colours.slice(3 * k, 3 * k + 3), 255], 4 * k);
  ramp.putImageData(picture, 0, 0);
  const words = KEYS.filter(([label]) => label);
  byId("keys").replaceChildren(...words.flatMap(([label, meaning]) => [make("dt", {}, ...label.split("  ").map((key) => make("kbd", { textContent: key }))), make("dd", { textContent: meaning })]));
}

function listen() {
  const on = (id, type, act) => byId(id).addEventListener(type, act);
  on("previous", "click", () => choose(list.after(-1)));
  on("next", "click", () => choose(list.after(1)));
  on("slide", "input", (event) => set({ layer: "interval", slide: event.target.value / 100 }));
  on("opacity", "input", (event) => set({ opacity: event.target.value / 100 }));
  on("missed", "change", (event) => set({ missed: event.target.checked }));
  on("highlight", "change", (event) => set({ highlight: event.target.checked }));
  on("wide", "input", (event) => set({ wide: (event.target.value / 1000) * wideEnd, highlight: true }));
  on("wide-number", "input", (event) => event.target.validity.valid && event.target.value !== "" && set({ wide: Number(event.target.value), highlight: true }));
  on("method", "change", (event) => setMethods(Number(event.target.value), state.beside));
  on("beside", "change", (event) => setMethods(state.method, Number(event.target.value)));
  on("swap", "click", swap);
  on("sort", "change", (event) => sortBy(event.target.value, SORTS.find(([key]) => key === event.target.value)[2]));
  on("direction", "click", () => sortBy(state.sort, !state.descending));
  on("filter", "input", (event) => arrange({ filter: event.target.value }));
  on("zoom-in", "click", () => panels[0].zoomBy(1.5));
  on("zoom-out", "click", () => panels[0].zoomBy(1 / 1.5));
  on("zoom-fit", "click", fit);
  on("show-help", "click", () => byId("help").showModal());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
}

setUpHeader();
setUpControls();
listen();
arrange();
choose(list.order[0]);
