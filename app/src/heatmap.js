// A class map as colours over a picture.

// Perceptually even and readable without seeing red and green apart (points of "viridis", CC0).
const COLOURS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function colour(share) {
  const at = share * (COLOURS.length - 1);
  const low = Math.min(COLOURS.length - 2, Math.floor(at));
  return COLOURS[low].map((value, i) => value + (at - low) * (COLOURS[low + 1][i] - value));
}

// One class's map [px][px] out of all, evidence for it from 0 (none, or against) to 1 (its most).
export function classMap(cam, index, px) {
  const values = cam.subarray(index * px * px, (index + 1) * px * px);
  const most = Math.max(1e-6, ...values);
  return values.map((value) => Math.max(0, value) / most);
}

export function drawMap(context, { values, px }, [left, top, width, height], opacity) {
  const small = new OffscreenCanvas(px, px);
  const pixels = new ImageData(px, px);
  values.forEach((value, i) => pixels.data.set([...colour(value), 255 * value], 4 * i));
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.save(); // where nothing speaks for the class, the picture stays as it is
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = true; // bilinear, as docs/bundle.md asks
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.drawImage(small, left, top, width, height);
  context.restore();
}
