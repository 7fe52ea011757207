// A picture and what a person did to it; files come in through here.
import { DECODING, MOST_PIXELS } from "./pixels.js";

export class Photo {
  static async open(blob, name = blob.name ?? "") {
    const bitmap = await createImageBitmap(blob, DECODING);
    if (bitmap.width * bitmap.height > MOST_PIXELS) {
      bitmap.close();
      throw new Error("too many pixels");
    }
    return new Photo(blob, name, bitmap);
  }

  constructor(blob, name, bitmap) {
    Object.assign(this, { blob, name, bitmap });
    this.reset();
  }

  reset() {
    this.turn = 0; // quarter turns clockwise
    this.box = null; // {left, top, width, height} of the turned image, or the model's own section
  }

  get width() { return this.turn % 2 ? this.bitmap.height : this.bitmap.width; }
  get height() { return this.turn % 2 ? this.bitmap.width : this.bitmap.height; }

  rotate(quarters) {
    this.turn = (this.turn + quarters + 4) % 4;
    this.box = null;
  }

  close() { this.bitmap.close(); }
}

export const isImage = (file) => file.type.startsWith("image/");

// All image files of a drop, folders opened.
export async function droppedFiles(transfer) {
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return Array.from(transfer.files).filter(isImage);
  const files = [];
  for (const entry of entries) await walk(entry, files);
  return files.filter(isImage);
}

async function walk(entry, files) {
  if (entry.isFile) {
    files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) { // a reader hands out a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return;
    for (const one of some) await walk(one, files);
  }
}
