// The micro-batch as it was collated: rows are sequences, columns positions.

const LIMITS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5];
const heat = (loss) => (loss === null ? 9 : LIMITS.filter((limit) => loss >= limit).length);
const SPECIAL = /^(<[^<>\s]+>|\[[A-Z]+\])$/;
const bare = (text) => (SPECIAL.test(text) ? text.replace(/^[<[|]+|[>\]|]+$/g, "") : text);
const quoted = (text) => element("q", {}, text);

class Grid {
  constructor(picture, moments) {
    Object.assign(this, { picture, moments, cells: [], byPlace: [] });
    const shown = Math.min(picture.width, picture.shown);
    const sourceShown = Math.min(picture.source_width, picture.shown);
    const texts = picture.rows.flatMap((row) => [...(row.source ?? []), ...row.inputs, ...row.labels])
      .filter((text) => text !== null && !SPECIAL.test(text)).map((text) => [...text].length).sort((a, b) => a - b);
    // Too many columns for texts: narrow ones, all on one screen.
    this.isWide = shown + sourceShown > 110;
    const space = Math.min(1120, document.getElementById("grid").clientWidth || 1120) - 56;
    // Where a sequence has one target, its first token, that column alone is as wide as they are.
    const firsts = picture.rows.map((row) => [...(row.labels[0] ?? "")].length);
    const isOne = picture.rows.every(({ labels }) => labels.slice(1).every((label) => label === null));
    this.first = isOne && !this.isWide ? `--cell:${Math.min(140, 14 + 7.6 * Math.max(...firsts))}px` : null;
    const usual = texts[Math.floor(texts.length * 0.95)] ?? 1;
    const body = element("tbody");
    picture.rows.forEach((row, r) => body.append(this.row(row, r, shown, sourceShown)));
    this.table = element("table", { class: this.isWide ? "grid wide" : "grid", role: "grid", "aria-label": "A micro-batch, a row for each sequence", style: `--cell:${this.isWide ? Math.max(3, space / (shown + sourceShown)) : Math.min(72, Math.max(19, 9 + 7.6 * usual))}px` },
      this.head(shown, sourceShown), body);
    this.table.addEventListener("pointerover", (event) => this.tell(event.target));
    this.table.addEventListener("pointerdown", (event) => this.tell(event.target));
    this.table.addEventListener("pointerleave", () => tip.hide());
    this.table.addEventListener("focusin", (event) => this.tell(event.target));
    this.table.addEventListener("focusout", () => tip.hide());
    this.table.addEventListener("keydown", (event) => this.move(event));
    this.show(moments.length - 1);
  }

  head(shown, sourceShown) {
    const names = element("tr", {}, element("td", { class: "gap" })), numbers = element("tr", {}, element("th", { scope: "col" }, "tokens"));
    const first = (all, some) => (this.picture.left ? all - some : 0);
    const group = (name, all, some) => {
      names.append(element("th", { class: "group", colspan: some, scope: "colgroup" }, some < all ? `${name} ${name && "· "}positions ${whole(first(all, some) + 1)} to ${whole(first(all, some) + some)} of ${whole(all)}` : name));
      for (let t = 1; t <= some; t++) {
        const place = first(all, some) + t;
        numbers.append(element("th", { scope: "col" }, place % (this.isWide ? 25 : 5) === 0 || t === 1 ? element("span", {}, String(place)) : ""));
      }
    };
    if (sourceShown) {
      group("source: read", this.picture.source_width, sourceShown);
      for (const line of [names, numbers]) line.append(element("th", { class: "gap", "aria-hidden": "true" }));
      group("target: to be predicted", this.picture.width, shown);
    } else group("", this.picture.width, shown);
    return element("thead", {}, ...(sourceShown || shown < this.picture.width ? [names] : []), numbers);
  }

  row(row, r, shown, sourceShown) {
    const length = row.length + (row.source_length ?? 0);
    const line = element("tr", {}, element("th", { scope: "row", title: `${length} real tokens` }, whole(length)));
    this.byPlace.push([]);
    if (row.source) {
      this.side(line, r, row.source.map((text) => ({ text, kind: "read" })), sourceShown);
      line.append(element("td", { class: "gap", "aria-hidden": "true" }));
    }
    this.side(line, r, row.inputs.map((input, t) => ({
      input, text: row.labels[t] ?? input, kind: row.labels[t] === null ? "ignored" : "target",
    })), shown);
    return line;
  }

  side(line, r, tokens, width) {
    const before = this.picture.left ? width - tokens.length : 0;
    for (let t = 0; t < width; t++) {
      const token = tokens[t - before] ?? { kind: "padding", text: "" };
      const text = this.isWide ? "" : bare(token.text);
      const cell = element("td", { class: token.kind + (SPECIAL.test(token.text) ? " special" : ""), role: "gridcell", tabindex: -1, style: t ? null : this.first }, text);
      cell.token = { ...token, place: t + 1, row: r, column: this.byPlace[r].length };
      if (token.kind === "target") this.cells.push(cell);
      if (token.kind !== "target") cell.setAttribute("aria-label", token.kind === "padding" ? "padding" : `${token.text}, ${token.kind === "read" ? "read" : "ignored"}`);
      this.byPlace[r].push(cell);
      line.append(cell);
    }
  }

  show(number) {
    const { loss, wrong } = (this.moment = this.moments[number]);
    this.cells.forEach((cell, i) => {
      Object.assign(cell.token, { loss: loss[i], wrong: wrong[i] });
      cell.className = `h${heat(loss[i])}${wrong[i] ? " wrong" : ""}${SPECIAL.test(cell.token.text) ? " special" : ""}`;
      cell.setAttribute("aria-label", `target ${cell.token.text}, loss ${loss[i]}, ${wrong[i] ? "wrong: " + wrong[i][0] : "right"}`);
    });
    const start = this.byPlace[0][0];
    if (!this.table.querySelector('[tabindex="0"]')) start.tabIndex = 0;
  }

  tell(cell) {
    const token = cell.token;
    if (!token) return tip.hide();
    const lines = [element("div", {}, `sequence ${token.row + 1}, position ${token.place}`)];
    const say = (...parts) => lines.push(element("div", {}, ...parts));
    if (token.kind === "padding") say("padding: no loss", this.picture.computed < this.picture.positions ? ", no compute" : ", but computed on");
    if (token.kind === "read") say(quoted(token.text), " is read; it is no target");
    if (token.kind === "ignored") say(quoted(token.text), " is read and ignored in the loss");
    if (token.kind === "target") {
      say("target ", quoted(token.text), ", the model reads ", quoted(token.input));
      say(token.loss === null ? "loss not finite" : `loss ${token.loss}, probability ${(100 * Math.exp(-token.loss)).toPrecision(3)} %`);
      if (token.wrong) say("✗ most likely: ", quoted(token.wrong[0]), token.wrong[1] === null ? "" : ` (${(100 * token.wrong[1]).toPrecision(3)} %)`);
      else say("✓ the most likely token");
    }
    const box = cell.getBoundingClientRect();
    tip.show(box.left + window.scrollX, box.top + window.scrollY, ...lines);
  }

  move(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "Escape") tip.hide();
    if (!step || !event.target.token) return;
    event.preventDefault();
    const { row, column } = event.target.token;
    const next = this.byPlace[row + step[0]]?.[column + step[1]];
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

function drawPicture(run) {
  const { picture, moments } = run;
  const grid = new Grid(picture, moments);
  const place = (id, ...children) => document.getElementById(id).replaceChildren(...children);
  const swatch = (kind, text) => element("span", {}, element("span", { class: "swatch " + kind, "aria-hidden": "true" }), text);
  const hasIgnored = picture.rows.some((row) => row.labels.includes(null));
  const skips = picture.computed < picture.positions || picture.computed === picture.real;
  const ramp = element("span", { class: "ramp", "aria-hidden": "true" }, ...[...LIMITS, ""].map((limit, i) => element("span", {}, element("b", { class: "h" + i }), String(limit))));
  place("lead", `${picture.rows.length} validation sequences of different lengths, as they are collated into one micro-batch: `
    + "each coloured cell is a target token, and its loss counts once. Grey is padding: "
    + (skips ? "no loss, no gradient, no compute." : "no loss and no gradient."));
  document.getElementById("picture-legend").classList.toggle("wide", grid.isWide);
  place("picture-legend",
    element("span", {}, "loss of a target token", ramp),
    ...(grid.isWide ? [] : [swatch("h2 wrong", "wrong: another token was more likely")]),
    ...(picture.source_width ? [swatch("read", "read only")] : []),
    ...(hasIgnored ? [swatch("ignored", "read, ignored in the loss")] : []),
    swatch("padding", skips ? "padding, skipped" : "padding"));
  place("grid", grid.table);
  const target = grid.table.querySelector("th.group:last-child");
  if (picture.source_width) { // where it must be scrolled, targets are seen first
    const { clientWidth } = grid.table.parentNode;
    grid.table.parentNode.scrollLeft = target.offsetLeft - Math.max(60, clientWidth - target.offsetWidth - 8);
  }
  const pad = picture.positions - picture.real, read = picture.real - picture.targets;
  const part = (kind, count, text) => (count ? [element("span", { class: kind, style: `flex:${count} 1 0` }, `${whole(count)} ${text}`)] : []);
  place("bar", ...part("is-target", picture.targets, "targets"), ...part("is-read", read, "read only"), ...part(skips ? "is-padding" : "is-computed", pad, "padding"));
  const sum = element("span");
  place("sentence", "This micro-batch has ", element("b", {}, whole(picture.real)), " real tokens, ", element("b", {}, whole(picture.targets)),
    " of them targets; ", element("b", {}, Math.round((100 * pad) / picture.positions) + " %"), ` of the ${whole(picture.positions)} positions are padding. Computed on: `,
    element("b", {}, whole(picture.computed)), ". ", sum);
  const total = () => {
    const { sum: loss } = grid.moment;
    sum.textContent = loss === null ? "" : `The loss is the sum over all targets, divided once: ${shown("loss", loss)} / ${whole(picture.targets)} = ${shown("loss", loss / picture.targets)}.`;
  };
  total();
  if (moments.length < 2) return place("moments", `after step ${whole(moments[0].step)}`);
  const slider = element("input", { type: "range", min: 0, max: moments.length - 1, value: moments.length - 1, "aria-label": "Step of training" });
  const output = element("output");
  const play = element("button", { type: "button" }, "▶ Watch it learn");
  const turn = () => {
    grid.show(Number(slider.value));
    output.textContent = `step ${whole(grid.moment.step)}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    total();
  };
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "▶ Watch it learn"; };
  play.addEventListener("click", () => {
    if (timer) return stop();
    slider.value = 0;
    turn();
    play.textContent = "⏸ Pause";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      turn();
      if (slider.value === slider.max) stop();
    }, 500);
  });
  slider.addEventListener("input", () => { stop(); turn(); });
  turn();
  place("moments", element("label", {}, "after", slider), output, play);
}
