"use strict";
// Elements, numbers and curves. Texts go into the page as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS(SVG, tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const PERCENT = /accuracy|exact_match/;
const whole = (value) => value.toLocaleString("en");
const words = (name) => name.replaceAll("_", " ").replace("real tokens per second", "real tokens/s");

function shown(name, value) {
  if (value === undefined) return "";
  if (value === null) return "not finite";
  if (PERCENT.test(name)) return (100 * value).toFixed(2) + " %";
  if (/fill/.test(name)) return value.toFixed(2);
  if (Math.abs(value) >= 1000) return whole(Math.round(value));
  if (Number.isInteger(value)) return String(value);
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(2);
  return value.toPrecision(4);
}

function tick(value) {
  const size = Math.abs(value);
  const cut = (number) => String(Number(number.toPrecision(4)));
  if (size >= 1e9) return cut(value / 1e9) + "B";
  if (size >= 1e6) return cut(value / 1e6) + "M";
  if (size >= 1e4) return cut(value / 1e3) + "k";
  if (size !== 0 && size < 1e-4) return value.toExponential(1).replace(".0e", "e");
  return cut(value);
}

function evenTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9) + step * 1e-9; i++)
    ticks.push(i * step);
  return ticks;
}

function powerTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const factor of Math.log10(high / low) > 2.5 ? [1] : [1, 2, 5])
      ticks.push(factor * 10 ** power);
  return ticks.filter((value) => value >= low * 0.999 && value <= high * 1.001);
}

const tip = {
  box: document.getElementById("tip"),
  show(x, y, ...content) {
    this.box.replaceChildren(...content);
    this.box.hidden = false;
    const { width, height } = this.box.getBoundingClientRect();
    const left = Math.min(x + 14, document.documentElement.clientWidth - width - 8);
    const above = y - height - 14 > window.scrollY ? y - height - 14 : y + 22;
    this.box.style.left = Math.max(8, left) + "px";
    this.box.style.top = above + "px";
  },
  hide() { this.box.hidden = true; },
};

// Where a step lies on the axis of real tokens, between the steps at which they were counted.
function tokensAt(step, [steps, tokens]) {
  let after = steps.findIndex((known) => known >= step);
  if (after < 0) after = steps.length - 1;
  const [x0, y0] = after > 0 ? [steps[after - 1], tokens[after - 1]] : [0, 0];
  const [x1, y1] = [steps[after], tokens[after]];
  return x1 === x0 ? y1 : y0 + ((y1 - y0) * (step - x0)) / (x1 - x0);
}

const SPREAD = 20; // from there on a value's lower half is flat on a linear axis
const LINEAR = /accuracy|exact_match|learning_rate|fill|epoch/;

// options: x "step" or "tokens", scale "auto", "linear" or "log"; a series: label, colour, dash, width, points, curve, tokens.
class Chart {
  constructor(name, series, state) {
    Object.assign(this, { name, series, state, at: null });
    this.note = element("span", { class: "key" });
    this.caption = element("figcaption", {}, title(words(name)), this.note);
    for (const { label, colour, dash, width, opacity } of this.keys()) {
      const line = element("svg:path", { d: "M1 4h18", style: `stroke:${colour}`, "stroke-width": width + 0.5, "stroke-opacity": opacity, "stroke-dasharray": dash });
      const sample = element("svg:svg", { viewBox: "0 0 20 8", "aria-hidden": "true" }, line);
      this.caption.append(element("span", { class: "key" }, sample, label));
    }
    this.svg = element("svg:svg", { class: "chart", tabindex: 0, role: "img" });
    this.figure = element("figure", {}, this.caption, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerdown", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.leave());
    this.svg.addEventListener("blur", () => this.leave());
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  keys() {
    const unique = new Map(this.series.map((one) => [one.kind ?? one.label, one]));
    return unique.size < 2 ? [] : [...unique].map(([label, one]) => ({ ...one, label, colour: one.kind ? "var(--muted)" : one.colour }));
  }

  draw() {
    const { x, scale: wanted } = this.state;
    const width = Math.max(200, this.figure.clientWidth), height = 216;
    const lines = this.series.filter((one) => !this.state.hidden.has(one.run)).map((one) => {
      const [steps, values] = one.curve;
      const places = x === "tokens" && one.tokens[0].length ? steps.map((s) => tokensAt(s, one.tokens)) : steps;
      return { ...one, places, values, steps };
    });
    const finite = lines.flatMap((one) => one.values).filter((v) => v !== null);
    const places = lines.flatMap((one) => one.places);
    let low = finite.length ? Math.min(...finite) : 0, high = finite.length ? Math.max(...finite) : 1;
    const spreads = high > SPREAD * low && !LINEAR.test(this.name);
    this.log = finite.length > 0 && low > 0 && (wanted === "log" || (wanted === "auto" && spreads));
    this.note.textContent = this.log ? "logarithmic" : "";
    if (!this.log && low >= 0 && (low < 0.45 * high || PERCENT.test(this.name))) low = 0;
    if (low === high) [low, high] = low === 0 ? [0, 1] : this.log ? [low / 2, low * 2] : [low - Math.abs(low) / 2, low + Math.abs(low) / 2];
    const end = Math.max(...places, 1), begin = Math.min(...places, end / 20);
    const ticks = this.log ? powerTicks(low, high) : evenTicks(low, high, 4);
    const left = 10 + 6.8 * Math.max(...ticks.map((t) => tick(t).length), 2), right = 14, top = 10, bottom = 24;
    const scale = this.log ? Math.log : (v) => v;
    const px = (place) => left + ((width - left - right) * (place - begin)) / (end - begin || 1);
    const py = (v) => height - bottom - ((height - top - bottom) * (scale(v) - scale(low))) / (scale(high) - scale(low));
    Object.assign(this, { lines, px, py, width, height, top, bottom });
    this.svg.replaceChildren();
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("aria-label", this.summary());
    for (const value of ticks) {
      const y = py(value);
      this.add("line", { class: "rule", x1: left, x2: width - right, y1: y, y2: y });
      this.add("text", { x: left - 7, y: y + 4, "text-anchor": "end" }, tick(value));
    }
    for (const value of evenTicks(begin, end, width > 420 ? 6 : 4))
      this.add("text", { x: px(value), y: height - 6, "text-anchor": px(value) > width - 30 ? "end" : "middle" }, tick(value));
    this.add("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom });
    for (const one of lines) this.line(one);
    this.cross = this.add("g", {});
  }

  line({ places, values, steps, colour, dash, width, opacity, points, best }) {
    let d = "", pen = "M";
    values.forEach((value, i) => {
      if (value === null) { pen = "M"; return; }
      d += `${pen}${this.px(places[i]).toFixed(1)} ${this.py(value).toFixed(1)}`;
      pen = "L";
    });
    this.add("path", { d: d || "M0 0", style: `stroke:${colour}`, "stroke-width": width, "stroke-opacity": opacity, "stroke-dasharray": dash });
    if (points || values.length === 1)
      values.forEach((value, i) => value !== null && values.length <= 40 &&
        this.add("circle", { cx: this.px(places[i]), cy: this.py(value), r: 3, style: `fill:${colour}` }));
    const at = steps.indexOf(best);
    if (at >= 0 && values[at] !== null)
      this.add("text", { class: "star", x: this.px(places[at]), y: this.py(values[at]) + 6, style: `fill:${colour}` }, "★", element("svg:title", {}, `best checkpoint, step ${whole(best)}`));
  }

  add(tag, attributes, ...children) {
    const made = element("svg:" + tag, attributes, ...children);
    this.svg.append(made);
    return made;
  }

  summary() {
    const parts = this.lines.map(({ label, values }) => {
      const known = values.filter((v) => v !== null);
      return known.length ? `${label} from ${shown(this.name, known[0])} to ${shown(this.name, known.at(-1))}` : `${label} has no finite value`;
    });
    return `${words(this.name)} by ${this.state.x === "tokens" ? "real tokens" : "step"}: ${parts.join("; ")}. Arrow keys read values.`;
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) * this.width) / box.width;
    const all = this.lines.flatMap((one) => one.places);
    if (all.length) this.read(all.reduce((a, b) => (Math.abs(this.px(b) - x) < Math.abs(this.px(a) - x) ? b : a)));
  }

  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") this.leave();
    if (!move) return;
    event.preventDefault();
    const all = [...new Set(this.lines.flatMap((one) => one.places))].sort((a, b) => a - b);
    const now = this.at === null ? (move > 0 ? -1 : all.length) : all.indexOf(this.at);
    if (all.length) this.read(all[Math.min(all.length - 1, Math.max(0, now + move))]);
  }

  read(place) {
    this.at = place;
    const x = this.px(place), rows = [], marks = [];
    for (const { places, values, label, colour } of this.lines) {
      let near = 0;
      places.forEach((p, i) => { if (Math.abs(p - place) < Math.abs(places[near] - place)) near = i; });
      if (!places.length || Math.abs(this.px(places[near]) - x) > 24) continue;
      if (values[near] !== null) marks.push(element("svg:circle", { cx: this.px(places[near]), cy: this.py(values[near]), r: 4, style: `fill:${colour};stroke:var(--paper)`, "stroke-width": 1.5 }));
      rows.push(element("div", { class: "row" }, element("i", { style: `background:${colour}` }), element("span", {}, label), element("span", {}, shown(this.name, values[near]))));
    }
    this.cross.replaceChildren(element("svg:line", { class: "cross", x1: x, x2: x, y1: this.top, y2: this.height - this.bottom }), ...marks);
    const box = this.svg.getBoundingClientRect();
    const head = this.state.x === "tokens" ? `${whole(Math.round(place))} real tokens` : `step ${whole(place)}`;
    tip.show(box.left + window.scrollX + (x * box.width) / this.width, box.top + window.scrollY + 30, element("div", {}, head), ...rows);
  }

  leave() {
    this.at = null;
    this.cross.replaceChildren();
    tip.hide();
  }
}

const title = (text) => text.charAt(0).toUpperCase() + text.slice(1);
