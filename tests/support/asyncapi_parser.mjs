// Judges AsyncAPI documents by @asyncapi/parser: asyncapi_parser.mjs FOLDER_OF_NODE_MODULES DOCUMENT…
// Prints a line for each error and warning of a document, as JSON; that a newer version of AsyncAPI exists is neither.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [folder, ...documents] = process.argv.slice(2);
const { Parser } = createRequire(resolve(folder) + "/")("@asyncapi/parser");
const parser = new Parser();
for (const document of documents) {
  const { diagnostics } = await parser.parse(readFileSync(document, "utf8"), { source: document });
  for (const { code, message, path, severity } of diagnostics) {
    if (severity <= 1) console.log(JSON.stringify({ document, code, message, path: path.join("/") }));
  }
}
console.log(JSON.stringify({ judged: documents.length }));
