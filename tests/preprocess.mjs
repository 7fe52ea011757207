// What tests ask of the JavaScript preprocessing: a request as JSON on standard input, naming raw
// RGBA files; the answers as raw bytes in files.
import { readFileSync, writeFileSync } from "node:fs";
import { normalise, preprocess } from "../src/dermdistill/bundle/preprocess.mjs";

for (const { rgba, width, height, px, crop, mean, std, pixels, normalised } of JSON.parse(
  readFileSync(0, "utf8"),
)) {
  const found = preprocess(new Uint8Array(readFileSync(rgba)), width, height, { px, crop });
  writeFileSync(pixels, found);
  if (normalised) {
    const values = normalise(found, { mean, std });
    writeFileSync(normalised, new Uint8Array(values.buffer));
  }
}
