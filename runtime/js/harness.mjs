/** For the tests: node harness.mjs TASK.json. The task's script is the body of an async function: it runs in node, or
 * where there is an address in that page of a Chromium; `steps` run here and drive the page instead. What it returns is
 * printed as JSON, or the error that it throws. */
import {readFile} from "node:fs/promises";

const {script, steps, given, address, chromium, arguments: more = [], context = {}} =
  JSON.parse(await readFile(process.argv[2], "utf8"));
// A text, because it goes into the page too. Typed arrays become lists.
const RUN = `async (script, words) => {
  const plain = (_, value) => ArrayBuffer.isView(value) ? [...value].map(Number) : value;
  try {
    const body = new (async () => {}).constructor(...Object.keys(words), script);
    return JSON.stringify({found: await body(...Object.values(words)) ?? null}, plain);
  } catch (error) {
    return JSON.stringify({error: error.name, message: error.message});
  }
}`;

async function inNode() {
  const parts = await Promise.all(["formats", "preprocess", "postprocess", "sound"].map(
    (name) => import(`./${name}.js`)));
  return eval(RUN)(script, {given, runtime: await import("./edgeq_runtime.js"), ort: await import("onnxruntime-web"),
    parts: Object.assign({}, ...parts)});
}

async function inChromium() {
  const {chromium: launcher} = await import("playwright-core");
  const browser = await launcher.launch({executablePath: chromium, args: ["--no-sandbox", ...more]});
  const page = await (await browser.newContext(context)).newPage(), complaints = [];
  page.on("console", (message) => { if (message.type() === "error") complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(address);
  if (!steps) await page.waitForFunction(() => globalThis.words);
  const result = steps ? await eval(RUN)(steps, {page, given})
    : await page.evaluate(`(${RUN})(${JSON.stringify(script)}, {...words, given: ${JSON.stringify(given)}})`);
  await browser.close();
  return JSON.stringify({...JSON.parse(result), complaints});
}

// The engine's threads wait for more work: without an exit this would not end.
process.stdout.write(await (address ? inChromium() : inNode()), () => process.exit(0));
