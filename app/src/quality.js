// Plain faults of a picture, found in the square that the model sees.
// benchmarks/quality.py has how often each limit is passed on real dermoscopy and on other things.

export const LIMITS = {
  darkest: 45, // mean luma of 255
  blurriest: 0.004, // share of the luma's variance that lies between neighbouring pixels
  leastSkin: 0.35, // share of pixels with a colour that skin or a lesion has
};

// Luma of each pixel (Rec. 601), 0 to 255.
function lumaOf(pixels) {
  const luma = new Float32Array(pixels.length / 3);
  for (let i = 0, o = 0; o < luma.length; i += 3, o++) {
    luma[o] = 0.299 * pixels[i] + 0.587 * pixels[i + 1] + 0.114 * pixels[i + 2];
  }
  return luma;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// Variance of the Laplacian over the variance of the luma: contrast cancels, sharpness stays.
function sharpnessOf(luma, px) {
  const middle = mean(luma);
  const spread = mean(luma.map((value) => (value - middle) ** 2));
  let sum = 0;
  for (let y = 1; y < px - 1; y++) {
    for (let x = 1; x < px - 1; x++) {
      const i = y * px + x;
      sum += (4 * luma[i] - luma[i - 1] - luma[i + 1] - luma[i - px] - luma[i + px]) ** 2;
    }
  }
  return sum / (px - 2) ** 2 / Math.max(spread, 1);
}

// Skin, pigment and blood under a dermatoscope are red above green above blue, or nearly black.
function skinOf(pixels) {
  let skin = 0;
  for (let i = 0; i < pixels.length; i += 3) {
    const [r, g, b] = [pixels[i], pixels[i + 1], pixels[i + 2]];
    if (r >= g && r - b > 5 && r - b < 150 && b > 0.25 * r) skin++;
  }
  return skin / (pixels.length / 3);
}

export function measure(pixels, px) {
  const luma = lumaOf(pixels);
  return { luma: mean(luma), sharpness: sharpnessOf(luma, px), skin: skinOf(pixels) };
}

// Names of the faults: "small", "dark", "blurred", "unlike". `side`: of the square before resizing.
export function examine(pixels, px, side) {
  const { luma, sharpness, skin } = measure(pixels, px);
  const faults = [];
  if (side < px) faults.push("small");
  if (luma < LIMITS.darkest) faults.push("dark");
  if (sharpness < LIMITS.blurriest) faults.push("blurred");
  if (skin < LIMITS.leastSkin && luma >= LIMITS.darkest) faults.push("unlike");
  return faults;
}
