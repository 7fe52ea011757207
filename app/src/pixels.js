// From a file to the square of pixels that the model takes, as docs/bundle.md has it.
import { preprocess } from "../../src/dermdistill/bundle/preprocess.mjs";

export const MOST_PIXELS = 80_000_000; // as the Python side
export const DECODING = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };

// The pixels of a bitmap after `turn` quarter turns clockwise, or of a box of them.
function read(bitmap, turn, box) {
  const flat = turn % 2 === 0;
  const [width, height] = flat ? [bitmap.width, bitmap.height] : [bitmap.height, bitmap.width];
  const part = box ?? { left: 0, top: 0, width, height };
  const canvas = new OffscreenCanvas(part.width, part.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false; // quarter turns move pixels, they mix none
  context.translate(-part.left, -part.top);
  const matrix = [[1, 0, 0, 1, 0, 0], [0, 1, -1, 0, width, 0], [-1, 0, 0, -1, width, height], [0, -1, 1, 0, 0, height]];
  context.transform(...matrix[turn]);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, part.width, part.height);
}

// `box`: the person's own section {left, top, width, height} of the turned image, or null for the
// bundle's own crop. Returns the square, and how many pixels of the image its side had.
export async function toSquare(blob, turn, box, spec) {
  const bitmap = await createImageBitmap(blob, DECODING);
  try {
    if (bitmap.width * bitmap.height > MOST_PIXELS) throw new Error("too many pixels");
    const image = read(bitmap, turn, box);
    const side = spec.crop === "centre" || box ? Math.min(image.width, image.height) : Math.max(image.width, image.height);
    return { pixels: preprocess(image.data, image.width, image.height, spec), side };
  } finally {
    bitmap.close();
  }
}
