// Pictures: a layer with its overlays, as an image of the size of the pixels.

const MISSED_COLOUR = [255, 0, 160], WIDE_COLOUR = [255, 122, 0];
const HISTOGRAM_BINS = 60;
const CONTEXT_COLOUR = [128, 128, 128], CONTEXT_FADE = 0.6; // over pixels that are not judged, where an overlay is on

/** Planes whose weighted sum is the picture at a place of the slider: [plane, weight]; none where there is none. */
function pictureParts(pixels, sideIndex, look) {
  const side = pixels.sides[sideIndex], share = Math.abs(look.slide);
  if (look.layer !== "interval") return pixels[look.layer] ? [[pixels[look.layer], 1]] : [];
  const estimate = side.estimate ? [[side.estimate, 1 - share]] : [[side.lower, (1 - share) / 2], [side.upper, (1 - share) / 2]];
  return [...estimate, [look.slide < 0 ? side.lower : side.upper, share]].filter(([, weight]) => weight);
}

/** Write a weighted sum of planes into the bytes of a picture, grey planes into all three channels. */
function fill(out, parts, area) {
  for (let c = 0; c < 3; c++) {
    const [first, second, third] = parts.map(([plane, weight]) => ({ values: plane.values, start: (plane.channels === 1 ? 0 : c) * area, factor: (255 * weight) / plane.scale }));
    for (let p = 0, o = c; p < area; p++, o += 4) {
      let value = first.values[first.start + p] * first.factor;
      if (second) value += second.values[second.start + p] * second.factor;
      if (third) value += third.values[third.start + p] * third.factor;
      out[o] = value + 0.5 + 1e-9; // the byte of a whole number and a half is the next one, whatever was lost before
    }
  }
}

/** Draw what `look` asks for into a canvas of the size of the pixels. */
function paint(canvas, pixels, sideIndex, look, colours) {
  const { height, width } = pixels, area = height * width;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height), out = new Uint8Array(picture.data.buffer);
  const parts = pictureParts(pixels, sideIndex, look);
  if (parts.length) fill(out, parts, area);
  for (let o = 3; o < 4 * area; o += 4) out[o] = 255;
  const maps = mapsOf(pixels, sideIndex), nChannels = pixels.sides[sideIndex].lower.channels;
  const overlay = look.overlay === "size" ? maps.size : look.overlay === "error" ? maps.error : null;
  if (overlay) paintOverlay(out, overlay, look, colours);
  if (look.highlight) {
    for (let p = 0; p < area; p++) if (maps.size[p] > look.wide) blend(out, 4 * p, WIDE_COLOUR, 0, 0.75);
  }
  if (look.missed && maps.missed) {
    for (let p = 0; p < area; p++) if (maps.missed[p]) blend(out, 4 * p, MISSED_COLOUR, 0, 0.2 + (0.8 * maps.missed[p]) / nChannels);
  }
  context.putImageData(picture, 0, 0);
}

function paintOverlay(out, overlay, look, colours) {
  const factor = 255 / look.scaleEnd;
  for (let p = 0; p < overlay.length; p++) {
    const value = overlay[p];
    if (value !== value) blend(out, 4 * p, CONTEXT_COLOUR, 0, CONTEXT_FADE); // NaN
    else blend(out, 4 * p, colours, 3 * Math.min(255, Math.floor(value * factor + 0.5)), look.opacity);
  }
}

function blend(out, o, colours, k, share) {
  const rest = 1 - share;
  out[o] = rest * out[o] + share * colours[k] + 0.5;
  out[o + 1] = rest * out[o + 1] + share * colours[k + 1] + 0.5;
  out[o + 2] = rest * out[o + 2] + share * colours[k + 2] + 0.5;
}

/** Histogram of the sizes of one image; bars above the threshold stand out. */
function paintHistogram(canvas, maps, look) {
  const context = canvas.getContext("2d"), { width, height } = canvas, style = getComputedStyle(canvas);
  maps.counts ||= countSizes(maps.size, look.wideEnd);
  const { counts } = maps, bins = counts.length, most = Math.max(1, ...counts);
  context.clearRect(0, 0, width, height);
  for (let k = 0; k < bins; k++) {
    const isWide = ((k + 0.5) / bins) * look.wideEnd > look.wide;
    context.fillStyle = isWide ? `rgb(${WIDE_COLOUR})` : style.getPropertyValue("--bars");
    const tall = counts[k] ? Math.max(2, Math.sqrt(counts[k] / most) * (height - 6)) : 0; // root: rare wide ones show
    context.fillRect((k * width) / bins + 1, height - tall, width / bins - 2, tall);
  }
  const x = (look.wide / look.wideEnd) * width;
  context.fillStyle = style.getPropertyValue("--text");
  context.fillRect(Math.round(x) - 1, 0, 3, height);
}

function countSizes(sizes, end) {
  const counts = new Array(HISTOGRAM_BINS).fill(0);
  for (const size of sizes) if (size >= 0) counts[Math.min(HISTOGRAM_BINS - 1, Math.floor((size / end) * HISTOGRAM_BINS))]++;
  return counts;
}
