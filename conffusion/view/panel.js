// A panel: one picture with zoom, pan and a pixel cursor. All panels share one view and one cursor.

const LARGEST_SCALE = 64; // screen pixels for an image pixel

/** What all panels show: centre (in shares of the image's sides), scale (relative to the one that fits), cursor. */
class SharedView {
  constructor() {
    this.reset();
    this.cursor = null;
    this.hover = null;
  }

  reset() {
    Object.assign(this, { zoom: 1, x: 0.5, y: 0.5 });
  }
}

class Panel {
  /** `handlers`: pick({x, y}), hover({x, y} or null), change(), move(dx, dy). */
  constructor(view, handlers) {
    this.view = view;
    this.handlers = handlers;
    this.picture = document.createElement("canvas");
    this.element = make("figure", { className: "panel" });
    this.canvas = make("canvas", { tabIndex: 0, className: "view" });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "image");
    this.caption = make("figcaption", {});
    this.element.append(this.canvas, this.caption);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** Screen pixels for an image pixel where the whole image fits. */
  get fitting() {
    return Math.min(this.canvas.clientWidth / this.picture.width, this.canvas.clientHeight / this.picture.height);
  }

  get scale() {
    return this.fitting * this.view.zoom;
  }

  /** Screen place of the image's left upper corner. */
  get corner() {
    return {
      x: this.canvas.clientWidth / 2 - this.view.x * this.picture.width * this.scale,
      y: this.canvas.clientHeight / 2 - this.view.y * this.picture.height * this.scale,
    };
  }

  draw() {
    const { canvas, picture, view } = this, ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (!width || !height || !picture.width) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d"), { scale, corner } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    context.imageSmoothingEnabled = scale * ratio < 1; // pixels are seen as pixels
    context.drawImage(picture, corner.x, corner.y, picture.width * scale, picture.height * scale);
    if (view.hover) this.frame(context, view.hover, 1, 0.7);
    if (view.cursor) this.frame(context, view.cursor, 2, 1);
  }

  /** A frame around a pixel, dark within light, so that it shows on everything. */
  frame(context, pixel, width, opacity) {
    const { scale, corner } = this, side = Math.max(scale, 7);
    const left = corner.x + (pixel.x + 0.5) * scale - side / 2, top = corner.y + (pixel.y + 0.5) * scale - side / 2;
    context.globalAlpha = opacity;
    context.lineWidth = width + 2;
    context.strokeStyle = "#000";
    context.strokeRect(left, top, side, side);
    context.lineWidth = width;
    context.strokeStyle = "#fff";
    context.strokeRect(left, top, side, side);
    context.globalAlpha = 1;
  }

  /** Image pixel at a place of the screen, or null outside the image. */
  pixelAt(event) {
    const box = this.canvas.getBoundingClientRect(), { scale, corner } = this;
    const x = Math.floor((event.clientX - box.left - corner.x) / scale);
    const y = Math.floor((event.clientY - box.top - corner.y) / scale);
    return x >= 0 && y >= 0 && x < this.picture.width && y < this.picture.height ? { x, y } : null;
  }

  /** Zoom by a factor, keeping a place of the screen where it is (the centre without one). */
  zoomBy(factor, event) {
    const { view, picture } = this, box = this.canvas.getBoundingClientRect();
    const dx = event ? event.clientX - box.left - this.canvas.clientWidth / 2 : 0;
    const dy = event ? event.clientY - box.top - this.canvas.clientHeight / 2 : 0;
    const before = this.scale;
    view.zoom = Math.min(Math.max(view.zoom * factor, 1), Math.max(1, LARGEST_SCALE / this.fitting));
    const shift = 1 / before - 1 / this.scale;
    this.panTo(view.x + (dx * shift) / picture.width, view.y + (dy * shift) / picture.height);
  }

  panTo(x, y) {
    // Half of what is seen stays inside the image.
    const half = 0.5 / this.view.zoom;
    this.view.x = Math.min(Math.max(x, half), 1 - half);
    this.view.y = Math.min(Math.max(y, half), 1 - half);
    this.handlers.change();
  }

  /** Move the view so that a pixel is seen. */
  reveal(pixel) {
    const { view, picture } = this, half = 0.5 / view.zoom;
    const within = (centre, share) => Math.min(Math.max(centre, share - half * 0.9), share + half * 0.9);
    this.panTo(within(view.x, (pixel.x + 0.5) / picture.width), within(view.y, (pixel.y + 0.5) / picture.height));
  }

  listen() {
    const { canvas, view } = this;
    let start = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      start = { x: event.clientX, y: event.clientY, viewX: view.x, viewY: view.y, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!start) return this.handlers.hover(this.pixelAt(event));
      const dx = event.clientX - start.x, dy = event.clientY - start.y;
      start.moved ||= Math.hypot(dx, dy) > 4;
      if (start.moved) {
        this.panTo(start.viewX - dx / (this.scale * this.picture.width), start.viewY - dy / (this.scale * this.picture.height));
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      const pixel = start && !start.moved && this.pixelAt(event);
      start = null;
      if (pixel) this.handlers.pick(pixel);
    });
    canvas.addEventListener("pointercancel", () => (start = null));
    canvas.addEventListener("pointerleave", () => this.handlers.hover(null));
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400), event);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      const far = event.shiftKey ? 10 : 1;
      this.handlers.move(step[0] * far, step[1] * far);
    });
  }
}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
