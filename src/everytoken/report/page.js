// The page: what is known of one run, or of several laid over each other.

const content = JSON.parse(document.getElementById("data").textContent);
const runs = content.runs, single = runs.length === 1;
const fill = (id, ...children) => document.getElementById(id).replaceChildren(...children);
const open = (id) => (document.getElementById(id).hidden = false);
const LOWER = /loss|perplexity|bits|error/;
const colourOf = (i) => `var(--s${i % 8})`;

// rows: lists of cells, each a text, a node, or {text, number, best, head}.
function table(heads, rows, kind = "plain") {
  const cell = (tag, one) => {
    const plain = typeof one !== "object" || one instanceof Node || one === null;
    const { text, number, best, head } = plain ? { text: one } : one;
    const name = [number && "number", best && "best"].filter(Boolean).join(" ");
    return element(head ? "th" : tag, { class: name || null, scope: head ? "row" : tag === "th" ? "col" : null }, text ?? "");
  };
  return element("table", { class: kind },
    element("thead", {}, element("tr", {}, ...heads.map((one) => cell("th", one)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((one) => cell("td", one))))));
}

const number = (name, value, more = {}) => ({ text: shown(name, value), number: true, ...more });
const date = (text) => new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" }) + " UTC";
const duration = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);
const PRECISION = { "32-true": "fp32", "64-true": "fp64", "bf16-mixed": "bf16", "16-mixed": "fp16" };
const state = (run) => element("span", { class: "state " + run.state },
  run.state === "finished" ? "finished" : `${run.state} at step ${whole(run.step)}${run.steps ? " of " + whole(run.steps) : ""}`);

function metricsOf(run, split) {
  const values = { ...run.latest, ...(run.summary ?? {}) };
  return Object.fromEntries(Object.entries(values).filter(([key]) => key.startsWith(split + "/")).map(([key, value]) => [key.slice(split.length + 1), value]));
}

const dot = (i) => element("i", { class: "dot", style: `background:${colourOf(i)}` });

function header() {
  document.getElementById("kind").textContent = single ? "everytoken · report of a run" : "everytoken · comparison of runs";
  document.getElementById("name").textContent = content.title ?? runs[0].name;
  if (!single) return fill("facts", ...runs.map(runButton));
  const [run] = runs, summary = run.summary ?? {}, values = { ...run.latest, ...summary };
  const facts = [run.machine && `${run.machine}${run.precision ? ", " + (PRECISION[run.precision] ?? run.precision) : ""}`, `started ${date(run.identity.created)}`,
    summary["seconds/fit"] && `${duration(summary["seconds/fit"])} of training`,
    run.state === "finished" ? `${whole(run.step)} steps` : null, values.epoch && `${values.epoch.toFixed(2)} epochs`,
    summary["best/step"] && `results of the best checkpoint, step ${whole(summary["best/step"])}`,
    values.real_tokens && `${whole(values.real_tokens)} real tokens seen`, run.parameters && `${whole(run.parameters)} parameters`];
  fill("facts", state(run), ...facts.filter(Boolean).map((text) => element("span", {}, text)));
  const split = Object.keys(metricsOf(run, "test")).length ? "test" : "val";
  const found = metricsOf(run, split), of = split === "test" ? "test" : "validation";
  // Perplexity is the loss again; a metric of one's own was added for a reason.
  const usual = ["exact_match", "accuracy", "bits_per_byte", "loss"];
  const own = Object.keys(found).filter((name) => ![...usual, "perplexity"].includes(name));
  const tiles = [...[...own.slice(0, 3), ...usual].map((name) => [`${of} ${words(name)}`, name, found[name]]),
    ["real tokens/s", "speed", values["throughput/real_tokens_per_second"]], ["fill: real / computed", "fill", values["throughput/fill"]]];
  fill("tiles", ...tiles.filter(([, , value]) => value !== undefined).map(([label, name, value]) =>
    element("div", {}, element("dt", {}, title(label)), element("dd", {}, shown(name, value)))));
}

const drawing = { x: "step", scale: "auto", hidden: new Set() };
const charts = [];
const redraw = () => charts.forEach((chart) => chart.draw());

function runButton(run, i) {
  const button = element("button", { type: "button", "aria-pressed": "true", title: "Show or hide its curves" }, dot(i), run.label);
  button.addEventListener("click", () => {
    drawing.hidden.has(i) ? drawing.hidden.delete(i) : drawing.hidden.add(i);
    button.setAttribute("aria-pressed", String(!drawing.hidden.has(i)));
    redraw();
  });
  return button;
}

function curves() {
  // A loss that training smooths is of another kind than that of evaluation: no axis for both.
  for (const { curves: all, train_loss: kind } of runs)
    if (runs.some((run) => run.train_loss) && all.loss?.train) {
      const { train, ...rest } = all.loss;
      all.loss = rest;
      all[kind ? `training loss ${kind}` : "training loss"] = { train };
    }
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))].filter((name) => runs.some((run) => Object.keys(run.curves[name] ?? {}).length));
  if (!names.length) return;
  const rank = (name) => ["loss", "accuracy", "exact_match"].indexOf(name) + 1 || (name.startsWith("training loss") ? 1.5 : name === "perplexity" ? 22 : ["learning_rate", "gradient_norm"].includes(name) ? 20 : name.startsWith("real_tokens") ? 21 : 10);
  for (const name of names.sort((a, b) => rank(a) - rank(b))) {
    const series = runs.flatMap((run, i) => Object.entries(run.curves[name] ?? {}).map(([split, curve]) => {
      const isVal = split === "val", said = { train: "train", val: "validation", run: words(name) }[split];
      const both = Object.keys(run.curves[name]).length > 1;
      return {
        run: i, curve, tokens: run.tokens, label: single ? said : both ? `${run.label} · ${said}` : run.label, kind: !single && both ? said : undefined,
        colour: single ? colourOf(isVal ? 1 : 0) : colourOf(i), width: isVal || !both ? 2 : 1.5, opacity: isVal || !both ? 1 : single ? 0.85 : 0.45,
        dash: !single && i >= 8 ? "6 3" : null, points: isVal, best: isVal ? run.summary?.["best/step"] : undefined,
      };
    }));
    if (name === "fill" && series.every((one) => new Set(one.curve[1]).size === 1)) continue;
    charts.push(new Chart(name, series, drawing));
  }
  const choice = (key, value, text) => {
    const input = element("input", { type: "radio", name: key, value, checked: value === drawing[key] ? "" : null });
    input.addEventListener("change", () => { drawing[key] = value; redraw(); });
    return element("label", {}, input, element("span", {}, text));
  };
  const either = (label, key, values) => element("fieldset", { class: "switch", "aria-label": label }, ...Object.entries(values).map(([value, text]) => choice(key, value, text)));
  open("curves");
  fill("curve-controls", either("Horizontal axis", "x", { step: "Steps", tokens: "Real tokens seen" }),
    either("Vertical axis", "scale", { auto: "As it fits", linear: "Linear", log: "Logarithmic" }),
    ...(charts.some((chart) => chart.series.some((one) => one.best !== undefined)) ? [element("span", {}, "★ best checkpoint")] : []));
  fill("charts", ...charts.map((chart) => chart.figure));
  redraw();
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; redraw(); } });
}

function results() {
  open("results");
  if (single) {
    const [run] = runs, found = { train: metricsOf(run, "train"), val: metricsOf(run, "val"), test: metricsOf(run, "test") };
    const done = run.state === "finished", splits = done ? ["val", "test"] : ["train", "val"];
    const names = [...new Set(splits.flatMap((split) => Object.keys(found[split])))].filter((name) => !/learning_rate|gradient_norm/.test(name));
    const rows = names.map((name) => [{ text: title(words(name)), head: true }, ...splits.map((split) => number(name, found[split][name]))]);
    const heads = done ? ["validation", "test"] : ["train", "validation"];
    return fill("results-table", table([done ? "Best checkpoint" : "Latest", ...heads.map((text) => ({ text, number: true }))], rows));
  }
  const columns = ["test", "val"].flatMap((split) => [...new Set(runs.flatMap((run) => Object.keys(metricsOf(run, split))))].map((name) => [split, name]));
  const best = Object.fromEntries(columns.map(([split, name]) => {
    const values = runs.map((run) => metricsOf(run, split)[name]).filter((v) => typeof v === "number");
    return [split + name, values.length > 1 && new Set(values).size > 1 ? (LOWER.test(name) ? Math.min : Math.max)(...values) : null];
  }));
  const rows = runs.map((run, i) => [{ text: element("span", {}, dot(i), run.label), head: true }, state(run),
    ...columns.map(([split, name]) => { const value = metricsOf(run, split)[name]; return number(name, value, { best: value !== undefined && value === best[split + name] }); }),
    number("speed", { ...run.latest, ...(run.summary ?? {}) }["throughput/real_tokens_per_second"])]);
  fill("results-table", table(["Run", "State", ...columns.map(([split, name]) => ({ text: `${split === "val" ? "validation" : split} ${words(name)}`, number: true })), { text: "real tokens/s", number: true }], rows, "plain runs"));
}


function different() {
  if (single) return;
  open("different");
  const rows = Object.entries(content.different).map(([key, values]) => [{ text: key, head: true }, ...values.map((value) => value ?? "—")]);
  fill("different-table", rows.length ? table(["Setting", ...runs.map((run) => run.label)], rows, "plain keys") : element("p", { class: "lead" }, "None: all settings are the same."));
}

function predictions() {
  const rows = runs[0].predictions ?? [];
  if (!single || !rows.length) return;
  open("predictions");
  const hasSource = rows.some(({ source }) => source.length);
  const kinds = [...new Set(rows.flatMap(({ target, prediction }) => [...target, ...prediction]).map(([, , kind]) => kind).filter(Boolean))].sort();
  const marked = (part, name, kind) => element("mark", { class: name, style: `--kind:${colourOf(kinds.indexOf(kind))}` }, part, element("small", {}, kind));
  const piece = (wrong) => ([part, ok, kind]) => {
    const name = ok ? null : wrong ?? null;
    return kind ? marked(part, name, kind) : name ? element("span", { class: name }, part) : part;
  };
  const text = (pieces, wrong) => element("span", { dir: "auto" }, ...(pieces.length || !wrong ? pieces.map(piece(wrong)) : [element("span", { class: "nothing" }, "none")]));
  fill("predictions-lead", "Examples of the last validation. ", element("span", { class: "off" }, "Marked"), " is what is wrong in a prediction, and ", element("span", { class: "missed" }, "shaded"), " what it missed in the target.");
  fill("predictions-table", table([...(hasSource ? ["Source"] : []), "Target", "Prediction", ""], rows.map(({ source, target, prediction }) => {
    const right = [...target, ...prediction].every(([, ok]) => ok);
    return [...(hasSource ? [text(source)] : []), text(target, "missed"), text(prediction, "off"), element("span", { class: right ? "right" : "", "aria-label": right ? "right" : "wrong" }, right ? "✓" : "✗")];
  }), "plain texts"));
}

function confusion() {
  const found = runs[0].confusion;
  if (!single || !found) return;
  open("confusion");
  const { labels, counts, classes, split } = found, name = (label) => label ?? "all others";
  const others = labels.includes(null) ? ` The ${labels.length - 1} most frequent of ${whole(classes)} classes have a row of their own.` : "";
  fill("confusion-lead", `What each class of the ${split === "test" ? "test" : "validation"} split (rows) is taken for (columns), in examples; coloured by the share of the row.${others}`);
  const head = (text) => element("span", { class: "upright", dir: "auto" }, text);
  const cell = (count, total, isRight, row, column) => element("td", {
    class: count ? (isRight ? (labels[row] === null ? null : "hit") : "miss") : null, style: count ? `--share:${Math.round(15 + (70 * count) / total)}%` : null,
    title: `${name(labels[row])} taken for ${name(labels[column])}: ${whole(count)} of ${whole(total)}`,
  }, count ? whole(count) : "");
  fill("confusion-table", element("table", { class: "confusion" },
    element("thead", {}, element("tr", {}, element("th", {}), ...labels.map((label) => element("th", { scope: "col" }, head(name(label)))))),
    element("tbody", {}, ...counts.map((row, i) => {
      const total = row.reduce((a, b) => a + b, 0);
      const isRight = (j) => i === j;
      return element("tr", {}, element("th", { scope: "row", dir: "auto" }, name(labels[i])), ...row.map((count, j) => cell(count, total, isRight(j), i, j)));
    }))));
}

function samples() {
  const rows = runs[0].samples ?? [];
  if (!single || !rows.length) return;
  open("samples");
  const text = (one) => element("span", { dir: "auto" }, one);
  fill("samples-table", table(["Text", "As it goes on", "As the model goes on"], rows.map((row) => [row.prompt, row.text, row.sample].map(text)), "plain texts"));
}

function data() {
  const report = runs[0].data;
  if (!single || !report) return;
  open("data-section");
  const columns = ["examples", "real tokens", "median length", "longest", "unknown", "repeated", "too long"].map((text) => ({ text, number: true }));
  fill("data-table", table(["Split", ...columns], Object.entries(report.splits).map(([name, { examples, real_tokens, percentiles, longest, counts }]) =>
    [{ text: name, head: true }, ...[examples, real_tokens, percentiles["50"], longest, counts.unknown, counts.duplicates, counts.too_long].map((value) => number("", value))])));
  fill("lengths", ...Object.entries(report.splits).map(([name, split]) => histogram(name, split)));
  const line = (text, value) => [element("span", {}, text), element("div", {}, element("div", { style: `width:${100 * value}%` })), element("span", {}, value.toFixed(2))];
  fill("fill", element("div", { class: "fill", role: "group", "aria-label": "Fill" }, ...line("fill of this run", report.fill), ...line("random batches, padded", report.padded_fill)));
  fill("warnings", ...report.warnings.map((text) => element("li", {}, text)));
}

function histogram(name, { histogram: counts, longest }) {
  const width = 400, height = 120, bottom = 22, most = Math.max(...counts, 1), step = width / counts.length;
  const svg = element("svg:svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Lengths of ${name} examples, from 1 to ${whole(longest)} real tokens` });
  counts.forEach((count, i) => {
    const tall = ((height - bottom - 4) * count) / most, size = longest / counts.length;
    const bar = element("svg:rect", { class: "mass", x: i * step + 1, y: height - bottom - tall, width: Math.max(1, step - 2), height: tall, rx: 1.5 });
    const range = `${whole(Math.floor(i * size) + 1)} to ${whole(Math.floor((i + 1) * size))} real tokens: ${whole(count)} examples`;
    const tell = (event) => tip.show(event.pageX, event.pageY, range);
    bar.addEventListener("pointermove", tell);
    bar.addEventListener("pointerdown", tell);
    bar.addEventListener("pointerleave", () => tip.hide());
    svg.append(bar);
  });
  svg.append(element("svg:line", { class: "axis", x1: 0, x2: width, y1: height - bottom, y2: height - bottom }),
    element("svg:text", { x: 0, y: height - 6 }, "1"), element("svg:text", { x: width, y: height - 6, "text-anchor": "end" }, `${whole(longest)} real tokens`));
  return element("figure", {}, element("figcaption", {}, `Lengths of ${name}`), svg);
}

function configuration() {
  if (!single) return;
  const [run] = runs;
  open("configuration");
  const copy = element("button", { type: "button" }, "Copy");
  copy.addEventListener("click", () => navigator.clipboard?.writeText(run.command).then(() => (copy.textContent = "Copied"), () => getSelection().selectAllChildren(copy.previousSibling)));
  fill("command", element("code", {}, run.command), copy);
  const all = Object.entries(run.config), filter = document.getElementById("filter");
  const list = () => {
    const wanted = filter.value.toLowerCase().split(/\s+/);
    const rows = all.filter((pair) => wanted.every((word) => pair.join(" ").toLowerCase().includes(word)));
    fill("settings-table", table(["Setting", "Value"], rows.map(([key, value]) => [{ text: key, head: true }, value]), "plain keys"));
  };
  filter.addEventListener("input", list);
  list();
  const { id, git_commit: commit, python, versions } = run.identity;
  const rows = [["run", id], ["commit", commit ?? "outside of git"], ["Python", python], ...Object.entries(versions)];
  fill("versions-table", table(["", "Version"], rows.map(([key, value]) => [{ text: key, head: true }, value ?? "not installed"]), "plain keys"));
}

function navigation() {
  const sections = [...document.querySelectorAll("main > section:not([hidden])")];
  const names = { picture: "Micro-batch" };
  fill("nav", ...sections.map((section) => element("a", { href: "#" + section.id }, names[section.id] ?? section.querySelector("h2").textContent)));
}

header();
if (single && runs[0].picture && runs[0].moments?.length) { open("picture"); drawPicture(runs[0]); }
curves();
results();
different();
confusion();
samples();
predictions();
data();
configuration();
navigation();
fill("footer", single
  ? [runs[0].path, runs[0].written && `written ${date(runs[0].written)} at step ${whole(runs[0].step)}`].filter(Boolean).join(" · ")
  : runs.map((run) => run.path).join(" · "));
document.addEventListener("scroll", () => tip.hide(), { passive: true });
for (const box of document.querySelectorAll(".scroll")) {
  if (box.scrollWidth > box.clientWidth) { box.before(element("p", { class: "hint" }, "There is more to the side: scroll ↔")); box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", "Table, scrolls sideways"); }
}
document.documentElement.dataset.ready = "true";
