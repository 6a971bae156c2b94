// The few things that every part of the page does with the document.

/** Return the element with an id. */
export function element(id) {
  return document.getElementById(id);
}

/** Show or hide an element. */
export function show(node, shown) {
  node.hidden = !shown;
}

/** Return a new element with properties and children (elements or text). */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "scope") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** Return a whole number with separators. */
export function count(number) {
  return number.toLocaleString("en");
}

/** Return a number of bytes as people read it. */
export function bytes(number) {
  const units = ["bytes", "kB", "MB", "GB"];
  const step = number < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(number) / 3));
  return `${(number / 1000 ** step).toFixed(step ? 1 : 0)} ${units[step]}`;
}
