// Answers without a picture: the class of a cloud as a whole, and features of its points.

import { bytes, count, element, make, show } from "./dom.js";

const MOST = 12;

function percent(share) {
  const number = 100 * share;
  return number > 0 && number < 0.1 ? "< 0.1 %" : `${number.toFixed(1)} %`;
}

function tell(what, about) {
  element("told-what").textContent = what;
  element("told-about").textContent = about;
  show(element("told"), true);
}

/** Show what /v1/classify answered. */
export function tellClass({ name, score, classes }) {
  tell(name, `${percent(score)} sure`);
  const first = [...classes].sort((a, b) => b.score - a.score).slice(0, MOST);
  const rows = first.map((one) => {
    const bar = make("span", { className: "share-bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", one.score);
    return make("li", {}, make("span", { className: "name", textContent: one.name }), bar, make("span", { className: "count", textContent: percent(one.score) }));
  });
  element("ranking").replaceChildren(...rows);
  const rest = element("ranking-rest");
  rest.textContent = `The likeliest ${MOST} of ${classes.length} classes; the JSON has all of them.`;
  show(rest, classes.length > MOST);
  show(element("class"), true);
}

/** Show what /v1/embed answered. */
export function tellFeatures({ points, features }) {
  tell(`Features of ${count(points)} points`, `This model gives no labels. The features are ready to be downloaded, ${bytes(features.size)}.`);
}

/** Take such an answer away. */
export function untell() {
  for (const id of ["told", "class"]) show(element(id), false);
}
