// Pixels of the page: found, decoded, kept for a while. Undoes conffusion/view/planes.py.

const KEPT_IMAGES = 6;

/** Bytes of a text in base64. */
function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let k = 0; k < binary.length; k++) bytes[k] = binary.charCodeAt(k);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Element that holds the pixels of an image; the browser may still be reading that part of the page. */
async function pixelElement(place) {
  for (;;) {
    const element = document.getElementById(`p${place}`);
    // Complete once something follows it.
    if (element && (element.nextElementSibling || document.readyState !== "loading")) return element;
    if (!element && document.readyState !== "loading") throw new Error(`the pixels of image ${place} are not in the page`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Values of one plane: {values, scale, channels}; a value divided by scale lies in [0, 1]. */
function decodePlane(bytes, start, n, bits, channels) {
  if (bits === 1) {
    const values = new Uint8Array(n);
    for (let k = 0; k < n; k++) values[k] = (bytes[start + (k >> 3)] >> (7 - (k & 7))) & 1;
    return { values, scale: 1, channels, bytes: (n + 7) >> 3 };
  }
  const values = bits === 8 ? new Uint8Array(n) : new Uint16Array(n);
  let level = 0;
  for (let k = 0; k < n; k++) {
    level += bits === 8 ? bytes[start + k] : (bytes[start + k] << 8) | bytes[start + n + k];
    values[k] = level; // modulo 2^bits
    level = values[k];
  }
  return { values, scale: bits === 8 ? 255 : 65535, channels, bytes: (n * bits) >> 3 };
}

/** Pixels of the images of the page, the last few kept. */
class PixelStore {
  constructor(index) {
    this.index = index;
    this.kept = new Map();
  }

  /** {height, width, step, given, target, mask, sides: [{lower, upper, estimate, missed}]}; absent planes undefined. */
  get(place) {
    const found = this.kept.get(place) || this.read(place);
    this.kept.delete(place);
    this.kept.set(place, found);
    if (this.kept.size > KEPT_IMAGES) this.kept.delete(this.kept.keys().next().value);
    return found;
  }

  async read(place) {
    const image = this.index.images[place];
    const [height, width] = shownSize(image);
    const bytes = await inflate(fromBase64((await pixelElement(place)).textContent));
    const pixels = { height, width, step: image.step, sides: this.index.sides.map(() => ({})) };
    let start = 0;
    for (const [name, channels, bits] of this.index.layouts[image.layout]) {
      const plane = decodePlane(bytes, start, channels * height * width, bits, channels);
      start += plane.bytes;
      const [, part, side] = name.match(/^([a-z]+)(\d*)$/);
      if (side === "") pixels[part] = plane;
      else pixels.sides[Number(side)][part] = plane;
    }
    return pixels;
  }
}

/** First row and column that a reduced image keeps, as in page.py. */
function firstKept(image) {
  const half = Math.floor(image.step / 2);
  return half >= Math.min(...image.size) ? 0 : half;
}

/** [height, width] of an image on the page. */
function shownSize(image) {
  return image.size.map((length) => Math.ceil((length - firstKept(image)) / image.step));
}

/** Value of channel c at pixel p, in [0, 1]. A grey plane has one value for all channels. */
function valueAt(plane, c, p, area) {
  return plane.values[(plane.channels === 1 ? 0 : c) * area + p] / plane.scale;
}

/** The estimate of a side, which is the midpoint where the page holds no other. */
function estimateAt(side, c, p, area) {
  if (side.estimate) return valueAt(side.estimate, c, p, area);
  return (valueAt(side.lower, c, p, area) + valueAt(side.upper, c, p, area)) / 2;
}

function isJudged(pixels, p) {
  return !pixels.mask || pixels.mask.values[p] === 1;
}

/** What is shown of a side as a whole, made once:
 *  size, error: mean over channels, NaN where not judged (error null without truth);
 *  missed: how many channels of a pixel lie outside (null without truth); nJudged, nMissed: pixels, values. */
function mapsOf(pixels, sideIndex) {
  const side = pixels.sides[sideIndex];
  if (!side.maps) side.maps = makeMaps(pixels, side);
  return side.maps;
}

function makeMaps(pixels, side) {
  const area = pixels.height * pixels.width, { lower, upper } = side, n = lower.channels;
  const size = new Float64Array(area), mask = pixels.mask && pixels.mask.values;
  if (lower.scale === upper.scale) { // whole numbers, so that sums are exact
    for (let k = 0, p = 0; k < n * area; k++, p = p + 1 === area ? 0 : p + 1) size[p] += upper.values[k] - lower.values[k];
    for (let p = 0; p < area; p++) size[p] /= lower.scale * n;
  } else {
    for (let k = 0, p = 0; k < n * area; k++, p = p + 1 === area ? 0 : p + 1) size[p] += (upper.values[k] / upper.scale - lower.values[k] / lower.scale) / n;
  }
  const maps = { size, error: null, missed: null, nJudged: area, nMissed: 0 };
  if (pixels.target) Object.assign(maps, compareWithTruth(pixels, side, n, area));
  for (let p = 0; mask && p < area; p++) {
    if (mask[p]) continue;
    size[p] = NaN;
    if (maps.error) maps.error[p] = NaN;
    if (maps.missed) maps.missed[p] = 0;
    maps.nJudged--;
  }
  for (let p = 0; maps.missed && p < area; p++) maps.nMissed += maps.missed[p];
  return maps;
}

function compareWithTruth(pixels, side, n, area) {
  const error = new Float32Array(area), missed = new Uint8Array(area);
  const ends = side.estimate ? [side.estimate, side.estimate] : [side.lower, side.upper]; // the estimate is between them
  const [low, high] = ends.map((plane) => plane.values), truth = pixels.target.values;
  const [perLow, perHigh] = ends.map((plane) => 0.5 / plane.scale), perTruth = 1 / pixels.target.scale;
  for (let c = 0, k = 0; c < n; c++) {
    for (let p = 0; p < area; p++, k++) {
      error[p] += Math.abs(low[k] * perLow + high[k] * perHigh - truth[k] * perTruth) / n;
      missed[p] += side.missed.values[k];
    }
  }
  return { error, missed };
}
