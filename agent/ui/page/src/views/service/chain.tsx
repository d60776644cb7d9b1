/** What a request may set off: time that is left, tries and what they multiply to, breakers; and what is wrong with it. */

import type { Chain, Link } from "../../api/types";
import { useOnce } from "../../api/use";
import { plural, seconds } from "../../format";
import { Mark, Partial, Waiting } from "../../parts/basics";
import { link } from "../../router";

export function ChainTab({ name }: { name: string }) {
  const seen = useOnce<Chain>(`/services/${encodeURIComponent(name)}/chain`);
  if (!seen.body) return <Waiting problem={seen.problem} what="the chain" />;
  const { chain, findings, missing, asked } = seen.body;
  return (
    <>
      <p class="small">
        The calls are those that agents have seen of callers who say who they are; the figures are those of the documents in force.{" "}
        <button type="button" onClick={seen.again}>
          Ask again
        </button>
      </p>
      <Partial missing={missing} asked={asked} />
      <ul class="chain">
        <Branch of={chain} />
      </ul>
      {chain.calls.length === 0 && <p class="empty">No agent has seen {name} call another service.</p>}
      <h2>What is wrong with it</h2>
      {findings.length === 0 ? (
        <p class="empty">Nothing.</p>
      ) : (
        <ul>
          {findings.map((each) => (
            <li key={`${each.kind} ${each.path.join(" ")} ${each.reason}`}>
              <Mark health="warn">
                <strong>{each.kind}</strong>
              </Mark>{" "}
              {each.path.join(" → ")}: {each.reason}
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function Branch({ of }: { of: Link }) {
  return (
    <li>
      <a href={link(["service", of.service], { tab: "chain" })}>{of.service}</a> {of.again ? "(stands above already)" : wordsOf(of)}
      {of.calls.length > 0 && (
        <ul>
          {of.calls.map((each) => (
            <Branch key={each.service} of={each} />
          ))}
        </ul>
      )}
    </li>
  );
}

export function wordsOf(of: Link): string {
  const own = of.timeout_s > 0 && of.within_s < of.timeout_s ? ` (of its own ${seconds(of.timeout_s)})` : "";
  const parts = [
    of.within_s > 0 ? `within ${seconds(of.within_s)}${own}` : "without limit",
    ...(of.try_s > 0 ? [`${seconds(of.try_s)} a try`] : []),
    plural(of.attempts, "try", "tries"),
    `at most ${plural(of.requests, "request")}`,
    of.breaker ? `breaker${of.fallback ? `, else ${of.fallback}` : ""}` : "no breaker",
    ...(of.backpressure ? ["back-pressure"] : []),
    ...Object.values(of.policies),
  ];
  return parts.join(", ");
}
