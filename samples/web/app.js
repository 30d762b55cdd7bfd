import {load, pixels} from "edgeq-runtime";
import * as litert from "@litertjs/core";
import * as ort from "onnxruntime-web";

const digit = part("digit"), photo = part("photo");

function part(name) {
  const find = (selector) => document.querySelector(`#${name} ${selector}`);
  return {find, stage: find(".stage"), answers: find(".answers"), status: find(".status")};
}

/** Every message of the runtime says what to do, so it is shown as it is. */
function say({status}, text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

async function opened(card, source) {
  say(card, "Loading the network and its engine");
  try {
    const model = await load(source, {ort, litert});
    const {status} = await model.self_test();
    const tested = `${model.engine}; self-test: ${status}`;
    say(card, tested, status === "fail");
    return {model, tested};
  } catch (error) {
    say(card, error.message, true);
    return null;
  }
}

async function predict(card, {model, tested}, source) {
  try {
    const start = performance.now(), found = await model.predict(source);
    say(card, `${(performance.now() - start).toFixed(1)} ms; ${tested}`);
    show(card, found);
    return found;
  } catch (error) {
    say(card, error.message, true);
    return [];
  }
}

function show({answers}, found) {
  answers.replaceChildren(...found.slice(0, 5).map(({label, score}) => {
    const line = document.createElement("li"), percent = `${(100 * score).toFixed(1)} %`;
    line.style.setProperty("--share", percent.replace(" ", ""));
    for (const textContent of [label, percent]) {
      line.append(Object.assign(document.createElement("span"), {textContent}));
    }
    return line;
  }));
}

// -- a digit ----------------------------------------------------------------------------------------------------------

const pad = digit.find(".pad"), pen = pad.getContext("2d", {willReadFrequently: true});
const models = {}; // by engine; each is loaded when it is first asked for
let loaded; // LiteRT's own WebAssembly, once for the page

async function digitModel() {
  const engine = document.querySelector("[name=engine]:checked").value;
  if (engine === "tflite") {
    try {
      await (loaded ??= litert.loadLiteRt("./node_modules/@litertjs/core/wasm/"));
    } catch (error) {
      say(digit, `LiteRT.js does not start: ${error.message ?? "is ./node_modules/@litertjs/core/wasm/ there?"}`, true);
      return null;
    }
  }
  return await (models[engine] ??= opened(digit, `bundles/digits.${engine}.edgeq`));
}

/** The drawing -> [1,1,8,8], 0 to 1, as the training data came about: the digit scaled to 32 x 32 pixels of ink or
 * none, and counted in squares of 4 x 4 (https://doi.org/10.24432/C50P49). */
function scanned() {
  const {data, width, height} = pen.getImageData(0, 0, pad.width, pad.height);
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (data[4 * (y * width + x) + 3] > 127) {
    [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x + 1), Math.max(bottom, y + 1)];
  }
  if (right === 0) return null;
  const scan = new OffscreenCanvas(32, 32).getContext("2d", {willReadFrequently: true});
  const factor = 32 / Math.max(right - left, bottom - top);
  const wide = (right - left) * factor, high = (bottom - top) * factor;
  scan.imageSmoothingQuality = "high";
  scan.drawImage(pad, left, top, right - left, bottom - top, (32 - wide) / 2, (32 - high) / 2, wide, high);
  const ink = scan.getImageData(0, 0, 32, 32).data, image = new Float32Array(64);
  for (let y = 0; y < 32; y++) for (let x = 0; x < 32; x++) {
    image[8 * (y >> 2) + (x >> 2)] += (ink[4 * (32 * y + x) + 3] > 127) / 16;
  }
  return image;
}

async function read() {
  const image = scanned(), small = digit.find(".small").getContext("2d");
  small.clearRect(0, 0, 8, 8);
  if (!image) return digit.answers.replaceChildren();
  image.forEach((value, k) => {
    small.fillStyle = `rgb(from ${getComputedStyle(pad).color} r g b / ${value})`;
    small.fillRect(k % 8, k >> 3, 1, 1);
  });
  digit.answers.ariaBusy = true;
  const model = await digitModel();
  if (model) await predict(digit, model, image);
  digit.answers.ariaBusy = false;
}

pad.addEventListener("pointerdown", (event) => {
  pad.setPointerCapture(event.pointerId);
  digit.stage.classList.add("used");
  draw(event, true);
});
pad.addEventListener("pointermove", (event) => { if (event.buttons) draw(event, false); });
pad.addEventListener("pointerup", read);

function draw(event, starts) {
  const {left, top, width} = pad.getBoundingClientRect(), scale = pad.width / width;
  const [x, y] = [(event.clientX - left) * scale, (event.clientY - top) * scale];
  if (starts) pen.beginPath(), pen.moveTo(x, y);
  [pen.lineWidth, pen.lineCap, pen.lineJoin, pen.strokeStyle] = [30, "round", "round", getComputedStyle(pad).color];
  pen.lineTo(x, y);
  pen.stroke();
}

digit.find(".clear").addEventListener("click", () => {
  pen.clearRect(0, 0, pad.width, pad.height);
  digit.stage.classList.remove("used");
  read();
});
for (const choice of document.querySelectorAll("[name=engine]")) {
  choice.addEventListener("change", async () => { if (await digitModel()) await read(); });
}

// -- a photograph -----------------------------------------------------------------------------------------------------

const photoModel = opened(photo, "bundles/photo.edgeq").then((model) => {
  if (!model) say(photo, `${photo.status.textContent} The README beside this page says how to make this bundle.`, true);
  return model;
});

async function classify(file) {
  const model = await photoModel;
  if (!model || !file) return;
  let image;
  try {
    image = await pixels(file);
  } catch (error) {
    return say(photo, error.message, true);
  }
  const canvas = photo.find(".picture"), [height, width] = image.dims;
  Object.assign(canvas, {width, height, hidden: false});
  photo.stage.classList.add("used");
  const context = canvas.getContext("2d");
  context.drawImage(await createImageBitmap(file), 0, 0);
  for (const {box, label} of await predict(photo, model, image)) if (box) outline(context, box, label);
}

/** A detection's box, in pixels of the photograph. */
function outline(context, [x0, y0, x1, y1], label) {
  const unit = Math.max(context.canvas.width, context.canvas.height) / 200;
  Object.assign(context, {lineWidth: unit, strokeStyle: "#ffd400", fillStyle: "#ffd400",
    font: `${7 * unit}px sans-serif`});
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.fillText(label, x0 + 2 * unit, y0 + 8 * unit);
}

photo.find("input").addEventListener("change", (event) => classify(event.target.files[0]));
photo.stage.addEventListener("dragover", (event) => { event.preventDefault(); photo.stage.classList.add("over"); });
photo.stage.addEventListener("dragleave", () => photo.stage.classList.remove("over"));
photo.stage.addEventListener("drop", (event) => {
  event.preventDefault();
  photo.stage.classList.remove("over");
  classify(event.dataTransfer.files[0]);
});

digitModel();
