// The state of the service and the models to choose from.

import { ask, Problem } from "./service.js";
import { count, element, make, show } from "./dom.js";

const AGAIN_MS = 1500;
const GROUPS = { segment: "Labels for points", classify: "One class for a cloud", embed: "Features of points" };
const PROMISES = {
  segment: "Each of its points is given a class.",
  classify: "It is given a class, as a whole.",
  embed: "Each of its points is given features, for you to take home.",
};
const BOXES_PROMISE = "Each of its points is given a class, and the boxes in it are measured.";

/** Show whether the service is ready, and ask again while it is not; resolves once it is. */
export async function untilReady() {
  for (;;) {
    let state = "silent";
    let text = "The service does not answer";
    try {
      const health = await ask("/health", { any: true });
      state = health.status ?? "closed";
      const device = health.device?.name ?? health.device?.type ?? "";
      text = { ready: `Ready${device ? ` on ${device}` : ""}`, closed: "Up" }[state] ?? health.reason;
    } catch (error) {
      if (!(error instanceof Problem)) state = "closed";
    }
    element("health").dataset.state = state;
    element("health-text").textContent = text;
    if (state === "ready" || state === "closed") return;
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

/** What the page asks of a model, out of the keys of GROUPS. */
function taskOf(card) {
  return card?.tasks?.[0] ?? "segment";
}

/** The choice of the model. */
export class Models {
  constructor() {
    this._cards = new Map();
    element("model").addEventListener("change", () => this._note());
  }

  /** Ask the service for its models; throws Problem. */
  async load() {
    const { models } = await ask("/v1/models");
    this._cards = new Map(models.map((card) => [card.name, card]));
    const select = element("model");
    const before = select.value;
    const groups = Object.entries(GROUPS)
      .map(([task, label]) => [label, models.filter((card) => taskOf(card) === task)])
      .filter(([, own]) => own.length)
      .map(([label, own]) => make("optgroup", { label }, ...own.map(({ name }) => make("option", { value: name, textContent: name }))));
    select.replaceChildren(...(groups.length > 1 ? groups : groups[0].children));
    select.value = this._cards.has(before) ? before : models[0].name;
    select.disabled = false;
    this._note();
  }

  /** Whether the models are known. */
  get known() {
    return this._cards.size > 0;
  }

  /** Return what the page asks of a model: segment, classify or embed. */
  task(model) {
    return taskOf(this._cards.get(model));
  }

  /** Whether a model is known to tell objects apart; of one that was never loaded nobody knows. */
  tellsObjects(model) {
    return Boolean(this._cards.get(model)?.objects);
  }

  /** Return a class's name as the model's card has it; a file's comment has no spaces in it. */
  className(model, id, name) {
    const card = this._cards.get(model);
    const exact = card?.classes.find((one) => one.id === id && one.name.replace(/\s/g, "_") === name);
    return exact?.name ?? name;
  }

  _note() {
    const card = this._cards.get(element("model").value);
    if (!card) return;
    const classes = { 0: "", 1: "1 class" }[card.classes.length] ?? `${count(card.classes.length)} classes`;
    const more = [card.family, classes].filter((words) => words && !card.title.includes(words));
    const facts = [...more, `voxels of ${+(card.grid_size * 1000).toPrecision(3)} mm`].join(", ");
    const failed = card.state === "failed" ? ` It cannot be used: ${card.reason}` : "";
    element("model-note").textContent = `${card.title}. ${facts[0].toUpperCase()}${facts.slice(1)}.${failed}`;
    const conditions = Object.keys(card.about?.conditions ?? {});
    const choices = conditions.map((name) => make("option", { value: name, textContent: name }));
    const select = element("condition");
    const before = select.value;
    select.replaceChildren(make("option", { value: "", textContent: "as it is configured" }), ...choices);
    select.value = conditions.includes(before) ? before : "";
    show(element("condition-field"), conditions.length > 0);
    const task = taskOf(card);
    element("promise").textContent = card.objects ? BOXES_PROMISE : PROMISES[task];
    for (const id of ["scores-field", "tta-field"]) show(element(id), task === "segment");
    show(element("units-field"), task === "segment" && (card.objects || card.state !== "ready"));
  }
}
