// A bundle's preprocessing in JavaScript, for browsers and Node, without dependencies.
//
// Bit for bit what the Python side does from the same decoded pixels; docs/bundle.md has the
// arithmetic. Doubles throughout: the order of operations is part of the specification.

const PRECISION_BITS = 22;
const ROUNDING = 2 ** (PRECISION_BITS - 1);
const UNIT = 2 ** PRECISION_BITS;

// Where each output pixel of one axis reads, and with which whole-number weights.
// `size` pixels are there, of which [start, stop) become `count`.
function weightsOf(size, start, stop, count) {
  const scale = (stop - start) / count;
  const width = Math.max(scale, 1);
  const step = 1 / width;
  return Array.from({ length: count }, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - width + 0.5));
    const last = Math.min(size, Math.trunc(centre + width + 0.5));
    const weights = [];
    let sum = 0;
    for (let x = first; x < last; x++) {
      const w = Math.max(0, 1 - Math.abs((x - centre + 0.5) * step));
      weights.push(w);
      sum += w;
    }
    return { first, weights: weights.map((w) => Math.trunc(0.5 + (w / sum) * UNIT)) };
  });
}

function toByte(sum) {
  // Sums stay below 2**31, so the shift is exact.
  return Math.min(255, Math.max(0, sum >> PRECISION_BITS));
}

// One axis of an RGB image: `lines` lines of pixels `step` apart, each resampled.
function resample(source, target, lines, lineOf, step, targetLineOf, targetStep, table) {
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < table.length; i++) {
      const { first, weights } = table[i];
      const from = lineOf(line) + first * step;
      const to = targetLineOf(line) + i * targetStep;
      for (let colour = 0; colour < 3; colour++) {
        let sum = ROUNDING;
        for (let k = 0; k < weights.length; k++) sum += source[from + k * step + colour] * weights[k];
        target[to + colour] = toByte(sum);
      }
    }
  }
}

// `rgb` (width x height x 3 bytes): the box {left, top, right, bottom} becomes columns x rows.
export function resize(rgb, width, height, box, columns, rows) {
  const across = weightsOf(width, box.left, box.right, columns);
  const middle = new Uint8Array(columns * height * 3);
  resample(rgb, middle, height, (y) => y * width * 3, 3, (y) => y * columns * 3, 3, across);
  const down = weightsOf(height, box.top, box.bottom, rows);
  const result = new Uint8Array(columns * rows * 3);
  resample(middle, result, columns, (x) => x * 3, columns * 3, (x) => x * 3, columns * 3, down);
  return result;
}

// Transparent pixels on white, as Pillow's alpha_composite does it in whole numbers.
export function onWhite(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let i = 0, o = 0; i < rgba.length; i += 4, o += 3) {
    const alpha = rgba[i + 3];
    for (let colour = 0; colour < 3; colour++) {
      if (alpha === 255) {
        rgb[o + colour] = rgba[i + colour];
      } else if (alpha === 0) {
        rgb[o + colour] = 255;
      } else {
        const share = alpha * 128; // of an opaque result, with seven more bits
        const sum = rgba[i + colour] * share + 255 * (32640 - share) + (0x80 << 7);
        rgb[o + colour] = ((sum >> 8) + sum) >> 8 >> 7;
      }
    }
  }
  return rgb;
}

// Half to even, as Python rounds.
function round(x) {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 ? down + 1 : down;
}

// Upright RGBA pixels as a canvas gives them -> the px * px * 3 bytes that every model takes.
export function preprocess(rgba, width, height, { px, crop }) {
  const rgb = onWhite(rgba);
  if (crop === "squash") {
    return resize(rgb, width, height, { left: 0, top: 0, right: width, bottom: height }, px, px);
  }
  if (crop === "pad") {
    const longest = Math.max(width, height);
    const [columns, rows] = [width, height].map((n) => Math.max(1, round((n * px) / longest)));
    const whole = { left: 0, top: 0, right: width, bottom: height };
    const inner = resize(rgb, width, height, whole, columns, rows);
    const square = new Uint8Array(px * px * 3);
    const left = Math.floor((px - columns) / 2);
    const top = Math.floor((px - rows) / 2);
    for (let y = 0; y < rows; y++) {
      const line = inner.subarray(y * columns * 3, (y + 1) * columns * 3);
      square.set(line, ((y + top) * px + left) * 3);
    }
    return square;
  }
  if (crop !== "centre") throw new Error(`no crop ${crop}; allowed: centre, squash, pad`);
  const side = Math.min(width, height);
  const left = Math.floor((width - side) / 2);
  const top = Math.floor((height - side) / 2);
  const box = { left, top, right: left + side, bottom: top + side };
  return resize(rgb, width, height, box, px, px);
}

// What the models do first, for whoever wants to compare: (pixels / 255 - mean) / std in float32.
export function normalise(pixels, { mean, std }) {
  const f = Math.fround;
  return Float32Array.from(pixels, (value, i) =>
    f(f(f(value / 255) - f(mean[i % 3])) / f(std[i % 3])));
}
