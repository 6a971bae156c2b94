// The curl commands that do the same, to copy.

import { element, make, show } from "./dom.js";

/** Return a text as one word of a POSIX shell. */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return a curl command that posts a file as a form; `fields` without a value are left out. */
export function curl(path, fileName, fields, out, withKey) {
  const parts = [`curl -F ${quoted(`file=@${fileName}`)}`];
  if (withKey) parts.push(`-H "X-API-Key: $API_KEY"`);
  for (const [name, value] of Object.entries(fields)) if (value !== "" && value !== undefined) parts.push(`-F ${quoted(`${name}=${value}`)}`);
  parts.push(quoted(`${location.origin}${path}`));
  if (out) parts.push(`-o ${quoted(out)}`);
  return parts.join(" \\\n  ");
}

async function copy(text, node) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Pages that are not encrypted may not write to the clipboard: select it, so that Ctrl-C does.
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  }
}

/** Show commands, [[what it does, the command]]. */
export function showCommands(commands) {
  const list = commands.map(([title, text]) => {
    const code = make("code", { textContent: text });
    const button = make("button", { type: "button", className: "quiet", textContent: "Copy", "aria-label": `Copy the command: ${title}` });
    button.addEventListener("click", async () => {
      button.textContent = (await copy(text, code)) ? "Copied" : "Press Ctrl-C";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    const pre = make("pre", { tabIndex: 0, role: "region", "aria-label": `Command: ${title}` }, code);
    return make("div", { className: "command" }, make("div", { className: "heading" }, make("h3", { textContent: title }), button), pre);
  });
  element("command-list").replaceChildren(...list);
  show(element("commands"), true);
}
