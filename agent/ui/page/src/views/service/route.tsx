/** The route in force, rule by rule in its order: the first that matches decides. */

import type { Policy } from "../../api/types";
import { share } from "../../format";
import { Json, Mark } from "../../parts/basics";
import { link } from "../../router";
import { rulesOf, sidesOf } from "./rules";

export function RouteRules({ route, name, versions }: { route: Policy; name: string; versions: Record<string, number> }) {
  const rules = rulesOf(route.document);
  const sides = sidesOf(route.document);
  const edit = (more: Record<string, string> = {}) => link(["why"], { url: `http://${name}/`, kind: "route", pattern: route.pattern, ...more });
  return (
    <>
      <p>
        <code>
          route/{route.pattern} @{route.revision}
        </code>
        {route.pattern !== name ? ", of a level above" : ""}. Rules are asked in order; the first that matches decides. <a href={edit()}>See what a change would do</a>
      </p>
      {sides && (
        <p class="sides">
          Blue-green: <strong>{sides.active}</strong> serves everybody, <strong>{sides.standby}</strong> waits.{" "}
          <a class="button" href={edit({ swap: "1" })}>
            Switch to {sides.standby} …
          </a>
        </p>
      )}
      <ol class="rules">
        {rules.map((rule) => (
          <li key={rule.name}>
            <strong>{rule.name}</strong> {rule.match ? <code>{rule.match}</code> : "everybody"}
            {rule.targets.map((target) => (
              <div class="target" key={target.words}>
                <meter min={0} max={1} value={target.part} aria-label={target.words} /> {share(target.part)} to {target.words}
                {target.version && !target.service && !versions[target.version] ? <Mark health="bad">no instance has this version</Mark> : null}
              </div>
            ))}
            {rule.more.map((line) => (
              <div class="small" key={line}>
                {line}
              </div>
            ))}
          </li>
        ))}
        {!rules.some((rule) => !rule.match) && <li>
          {rules.length > 0 ? "else " : ""}to {sides ? `version ${sides.active}` : "any instance of the service"}
          {sides && !versions[sides.active] ? <Mark health="bad">no instance has this version</Mark> : null}
        </li>}
      </ol>
      <details>
        <summary>The document</summary>
        <Json value={route.document} />
      </details>
    </>
  );
}
