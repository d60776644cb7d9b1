/** A name that is typed, with those that are known to choose from. */

import { Field } from "../../parts/basics";

interface Props {
  label: string;
  value: string;
  of: readonly string[];
  /** With each letter. */
  say: (text: string) => void;
  /** It is whole: somebody went on, or has chosen one. */
  done: () => void;
}

export function Named({ label, value, of, say, done }: Props) {
  const list = `known-${label.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;
  return (
    <>
      <Field label={label}>
        <input value={value} list={list} maxLength={260} spellcheck={false} autocomplete="off" onInput={(event) => say(event.currentTarget.value)} onChange={done} />
      </Field>
      <datalist id={list}>
        {of.map((each) => (
          <option key={each} value={each} />
        ))}
      </datalist>
    </>
  );
}
