// Colours of classes, objects and numbers, as bytes (r, g, b, a) for textures and as CSS.

// Told apart on dark and on light ground, and by most colour-blind readers in this order.
const OBJECTS = [
  [230, 126, 34], [52, 152, 219], [46, 176, 120], [214, 96, 168], [232, 190, 50], [138, 112, 214],
  [226, 82, 66], [38, 178, 190], [150, 190, 60], [196, 140, 90],
];
export const NO_CLASS = [150, 150, 150];
// Dark blue over green to yellow, even in lightness (viridis).
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

/** Return the colour of an object by its number. */
export function objectColor(number) {
  if (number < OBJECTS.length) return OBJECTS[number];
  return fromHue((number * 0.6180339887) % 1, number % 2 ? 0.62 : 0.5);
}

function fromHue(hue, lightness) {
  const reach = 0.62 * Math.min(lightness, 1 - lightness);
  const channel = (n) => {
    const k = (n + hue * 12) % 12;
    return Math.round(255 * (lightness - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

/** Return the bytes of a ramp of 256 colours. */
export function rampBytes() {
  const out = new Uint8Array(256 * 4);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (RAMP.length - 1);
    const below = Math.min(Math.floor(place), RAMP.length - 2);
    for (let c = 0; c < 3; c++) {
      out[4 * i + c] = Math.round(RAMP[below][c] + (place - below) * (RAMP[below + 1][c] - RAMP[below][c]));
    }
    out[4 * i + 3] = 255;
  }
  return out;
}

/** Return numbers as CSS. */
export function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}
