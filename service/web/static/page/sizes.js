// Sizes of boxes as people read them.

const UNITS = { m: [1, 3], cm: [100, 1], mm: [1000, 0] };

/** Return a length in metres as text in a unit, without the unit's name. */
export function length(metres, unit) {
  const [factor, digits] = UNITS[unit];
  return (metres * factor).toFixed(digits);
}

/** Return a volume in cubic metres as text, with its unit; with as many digits as `like` is shown with. */
export function volume(cubicMetres, like = cubicMetres) {
  const litres = cubicMetres * 1000;
  if (like >= 0.9995) return `${cubicMetres.toFixed(2)} m³`;
  return `${litres.toFixed(like < 0.001 ? 3 : like < 0.01 ? 2 : 1)} L`;
}

/** Return whether of a box that is not measured something is known. */
export function inPart(box) {
  return !box.measured && box.at_least?.volume_m3 != null;
}

/** Return the sides of a box that is known in part: ± where they are known, ≥ where they are not, ? without any idea. */
export function partWords(box, unit) {
  const sides = ["length_m", "width_m", "height_m"].map((side) => {
    if (box[side] != null) return `${length(box[side], unit)} ± ${length(box.uncertainty[side], unit)}`;
    const least = length(box.at_least[side], unit);
    return Number(least) > 0 ? `≥ ${least}` : "?";
  });
  return `${sides.join(" × ")} ${unit}`;
}

/** Return the texts of a box's tags: {all, sides}. */
export function tagWords(box, unit) {
  const sides = [box.length_m, box.width_m, box.height_m].map((side) => length(side, unit));
  return { all: `${sides.join(" × ")} ${unit}`, sides: sides.map((side) => `${side} ${unit}`) };
}
