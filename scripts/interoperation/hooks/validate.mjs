// What hooks sent, a request a line (JSON), judged by what the services publish of themselves: the path, the parameters of
// the query, and the body. Exits with 1 for a violation, and for having judged nothing.
//
//   node validate.mjs PACKAGES REQUESTS     PACKAGES: the folder that has node_modules
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [packages, requests] = process.argv.slice(2);
const require = createRequire(join(packages, "package.json"));
const Ajv = require("ajv").default;
const addFormats = require("ajv-formats").default;

const DESCRIPTIONS = { "api.github.com": "@octokit/openapi/generated/api.github.com.deref.json" };
const NOT_HAD = "Jira's (version 2), PagerDuty's and Statuspage's descriptions are not tried: their makers publish none with npm";

// Not strict: examples, and what else OpenAPI adds to JSON Schema, are no rules.
const ajv = new Ajv({ strict: false, allErrors: true, coerceTypes: false });
const coercing = new Ajv({ strict: false, allErrors: true, coerceTypes: "array" });
for (const each of [ajv, coercing]) addFormats(each);

const described = {};
const seen = new Map();
let violations = 0;

function description(host) {
  described[host] ??= JSON.parse(readFileSync(require.resolve(DESCRIPTIONS[host]), "utf8"));
  return described[host];
}

function operation(host, method, path) {
  const wanted = path.split("/");
  const fits = (template) => {
    const parts = template.split("/");
    return parts.length === wanted.length && parts.every((part, n) => part.startsWith("{") || part === wanted[n]);
  };
  const variables = (template) => template.split("{").length;
  const found = Object.keys(description(host).paths).filter(fits).sort((a, b) => variables(a) - variables(b));
  const template = found.find((each) => description(host).paths[each][method]);
  return template && { template, ...description(host).paths[template][method] };
}

function judge(request) {
  const url = new URL(request.url);
  const method = request.method.toLowerCase();
  // Where GitHub itself sends who asks for a renamed repository.
  const found = operation(url.host, method, url.pathname.replace(/^\/repositories\/\d+\//, "/repos/acme/ops/"));
  if (!found) return [`no operation ${request.method} ${url.pathname}`];
  const told = [];
  const known = (found.parameters ?? []).filter((parameter) => parameter.in === "query");
  for (const [name, value] of url.searchParams) {
    const parameter = known.find((each) => each.name === name);
    if (!parameter) told.push(`unknown parameter ${name}`);
    else check(coercing, parameter.schema, { value }, name, told);
  }
  for (const parameter of known) {
    if (parameter.required && !url.searchParams.has(parameter.name)) told.push(`lacks the parameter ${parameter.name}`);
  }
  const schema = found.requestBody?.content?.["application/json"]?.schema;
  if (request.body && !schema) told.push("a body where none is described");
  if (!request.body && found.requestBody?.required) told.push("no body");
  if (request.body && schema) {
    const body = JSON.parse(request.body);
    check(ajv, schema, { value: body }, "body", told);
    for (const name of Object.keys(body)) {
      if (schema.properties && !(name in schema.properties)) told.push(`body: unknown field ${name}`);
    }
  }
  const said = `${request.method} ${found.template}`;
  seen.set(said, (seen.get(said) ?? 0) + 1);
  return told;
}

// OpenAPI 3.0's `nullable` without a type is a null beside whatever else there is.
function plain(schema) {
  if (Array.isArray(schema)) return schema.map(plain);
  if (schema === null || typeof schema !== "object") return schema;
  const made = Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, plain(value)]));
  if (made.nullable !== true || made.type !== undefined) return made;
  delete made.nullable;
  return { anyOf: [{ type: "null" }, made] };
}

const compiled = new Map();

function check(validator, schema, holder, where, told) {
  if (!compiled.has(schema)) {
    compiled.set(schema, validator.compile({ type: "object", properties: { value: plain(schema) } }));
  }
  const validate = compiled.get(schema);
  if (!validate(holder)) for (const e of validate.errors) told.push(`${where}${e.instancePath.slice(6)}: ${e.message}`);
}

const unjudged = new Map();
for (const line of new Set(readFileSync(requests, "utf8").trim().split("\n"))) {
  const request = JSON.parse(line);
  const host = new URL(request.url).host;
  if (!(host in DESCRIPTIONS)) {
    unjudged.set(host, (unjudged.get(host) ?? 0) + 1);
    continue;
  }
  for (const told of judge(request)) {
    violations += 1;
    console.log(`${request.method} ${request.url}: ${told}`);
  }
}
for (const [said, count] of seen) console.log(`${count} × ${said}`);
for (const [host, count] of unjudged) console.log(`not judged: ${count} of ${host}; ${NOT_HAD}`);
console.log(`${violations} violations`);
process.exit(violations || !seen.size ? 1 : 0);
