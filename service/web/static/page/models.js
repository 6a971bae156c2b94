// The state of the service and the models to choose from.

import { ask, Problem } from "./service.js";
import { count, element, make, show } from "./dom.js";

const AGAIN_MS = 1500;

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

/** The choice of the model. */
export class Models {
  constructor() {
    this._cards = new Map();
    element("model").addEventListener("change", () => this._note());
  }

  /** Ask the service for its models; throws Problem. */
  async load() {
    const answer = await ask("/v1/models");
    const models = answer.models.filter((card) => !card.tasks || card.tasks.includes("segment"));
    this._cards = new Map(models.map((card) => [card.name, card]));
    const select = element("model");
    const before = select.value;
    select.replaceChildren(...models.map((card) => make("option", { value: card.name, textContent: card.name })));
    if (this._cards.has(before)) select.value = before;
    select.disabled = false;
    this._note();
  }

  /** Whether the models are known. */
  get known() {
    return this._cards.size > 0;
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
    const classes = card.classes.length === 1 ? "1 class" : `${count(card.classes.length)} classes`;
    const voxels = `voxels of ${+(card.grid_size * 1000).toPrecision(3)} mm`;
    const failed = card.state === "failed" ? ` It cannot be used: ${card.reason}` : "";
    element("model-note").textContent = `${card.title}. ${card.family}, ${classes}, ${voxels}.${failed}`;
    const conditions = Object.values(card.about?.conditions ?? []);
    const choices = conditions.map((name) => make("option", { value: name, textContent: name }));
    element("condition").replaceChildren(make("option", { value: "", textContent: "as it is configured" }), ...choices);
    show(element("condition-field"), conditions.length > 0);
  }
}
