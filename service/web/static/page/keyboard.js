// The view by keyboard, while it has the focus.

const STEP = Math.PI / 36;
const TURNS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** Wire a canvas; `onEscape` is called for Escape. */
export function watchKeys(canvas, view, onEscape) {
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const turn = TURNS[event.key];
    if (turn && event.shiftKey) view.shift(0.06 * turn[0], 0.06 * turn[1]);
    else if (turn) view.turn(STEP * turn[0], STEP * turn[1]);
    else if (event.key === "+" || event.key === "=") view.zoom(0.88);
    else if (event.key === "-" || event.key === "_") view.zoom(1 / 0.88);
    else if (event.key === "0" || event.key === "Home") view.home();
    else if (event.key === "Escape") onEscape();
    else return;
    event.preventDefault();
  });
}
