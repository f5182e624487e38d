// Pictures: a layer with its overlays, as an image of the size of the pixels.

const MISSED_COLOUR = [255, 0, 160], WIDE_COLOUR = [255, 122, 0];
const CONTEXT_FADE = 0.6; // share of the page's grey over pixels that are not judged, where an overlay is on

/** Where pixel values come from at a place of the slider: a function (c, p) to a value in [0, 1]; null: not there. */
function layerValue(pixels, sideIndex, layer, slide) {
  const area = pixels.height * pixels.width, side = pixels.sides[sideIndex];
  if (layer === "given" || layer === "target") {
    const plane = pixels[layer];
    return plane ? (c, p) => valueAt(plane, c, p, area) : null;
  }
  const end = slide < 0 ? side.lower : side.upper, share = Math.abs(slide);
  if (share === 0) return (c, p) => estimateAt(side, c, p, area);
  if (share === 1) return (c, p) => valueAt(end, c, p, area);
  return (c, p) => (1 - share) * estimateAt(side, c, p, area) + share * valueAt(end, c, p, area);
}

/** Draw what `look` asks for into a canvas of the size of the pixels. */
function paint(canvas, pixels, sideIndex, look, colours) {
  const { height, width } = pixels, area = height * width;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height), out = picture.data;
  const value = layerValue(pixels, sideIndex, look.layer, look.slide);
  const maps = mapsOf(pixels, sideIndex), nChannels = pixels.sides[sideIndex].lower.channels;
  const overlay = look.overlay === "size" ? maps.size : look.overlay === "error" ? maps.error : null;
  for (let p = 0; p < area; p++) {
    const o = 4 * p;
    for (let c = 0; c < 3; c++) out[o + c] = value ? Math.round(255 * value(c, p)) : 128;
    out[o + 3] = 255;
    if (overlay) {
      if (Number.isNaN(overlay[p])) blend(out, o, [128, 128, 128], 0, CONTEXT_FADE);
      else {
        const k = 3 * Math.min(255, Math.round((255 * overlay[p]) / look.scaleEnd));
        blend(out, o, colours, k, look.opacity);
      }
    }
    if (look.highlight && maps.size[p] > look.wide) blend(out, o, WIDE_COLOUR, 0, 0.75);
    if (look.missed && maps.missed && maps.missed[p]) blend(out, o, MISSED_COLOUR, 0, 0.2 + (0.8 * maps.missed[p]) / nChannels);
  }
  context.putImageData(picture, 0, 0);
}

function blend(out, o, colours, k, share) {
  for (let c = 0; c < 3; c++) out[o + c] = Math.round((1 - share) * out[o + c] + share * colours[k + c]);
}

/** Histogram of the sizes of one image; bars above the threshold stand out. */
function paintHistogram(canvas, sizes, look) {
  const context = canvas.getContext("2d"), { width, height } = canvas, bins = 60;
  const style = getComputedStyle(canvas), counts = new Array(bins).fill(0);
  for (const size of sizes) if (size >= 0) counts[Math.min(bins - 1, Math.floor((size / look.wideEnd) * bins))]++;
  const most = Math.max(1, ...counts);
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
