import { expect, test } from "vitest";
import { complete, equalTo, finish, matchers, placeAt, tokenize, withEqual, write } from "./selector";

test("tokenize", () => {
  const f = (text: string, want: string): void => expect(tokenize(text).map((t) => `${t.kind}:${t.text}`).join(" ")).toBe(want);
  f("", "");
  f("{}", "open:{ close:}");
  f('{a="b", c=~"d.*"}', "open:{ name:a op:= value:b comma:, name:c op:=~ value:d.* close:}");
  f('{a!="b",c!~"d"}', "open:{ name:a op:!= value:b comma:, name:c op:!~ value:d close:}");
  f('{a="x \\"y\\" \\\\"}', 'open:{ name:a op:= value:x "y" \\ close:}');
  f('{a="unfinished', "open:{ name:a op:= value:unfinished");
  f("{a!", "open:{ name:a op:!");
  f("{a=5}", "open:{ name:a op:= junk:5 close:}");
});

test("matchers are the complete ones, and are written as they were read", () => {
  expect(matchers('{a="b", c!~"d}"}')).toEqual([
    { name: "a", op: "=", value: "b" },
    { name: "c", op: "!~", value: "d}" },
  ]);
  expect(matchers('{a="b", c=')).toEqual([{ name: "a", op: "=", value: "b" }]);
  const odd = '{a="quote \\" back \\\\"}';
  expect(write(matchers(odd))).toBe(odd);
  expect(write([])).toBe("");
});

test("withEqual", () => {
  const f = (text: string, value: string, want: string): void => expect(withEqual(text, "service_name", value)).toBe(want);
  f("", "api", '{service_name="api"}');
  f('{pod="p"}', "api", '{pod="p", service_name="api"}');
  f('{service_name=~"a.*", pod="p"}', "api", '{service_name="api", pod="p"}');
  f('{service_name="a", service_name!="b"}', "api", '{service_name="api"}');
  f('{service_name="a", pod="p"}', "", '{pod="p"}');
  f('{service_name="a"}', "", "");
  expect(equalTo('{pod="p", service_name="a"}', "service_name")).toBe("a");
  expect(equalTo('{service_name=~"a"}', "service_name")).toBe("");
});

// The caret is written as |.
function at(text: string): ReturnType<typeof placeAt> {
  return placeAt(text.replace("|", ""), text.indexOf("|"));
}

test("placeAt", () => {
  const f = (text: string, want: object): void => expect(at(text)).toMatchObject(want);
  f("|", { kind: "name", prefix: "" });
  f("{|", { kind: "name", prefix: "" });
  f("{|}", { kind: "name", prefix: "" });
  f("ser|", { kind: "name", prefix: "ser", from: 0, to: 3 });
  f("{ser|vice}", { kind: "name", prefix: "ser", from: 1, to: 8 });
  f("{service_name |", { kind: "operator", name: "service_name" });
  f("{service_name=|", { kind: "value", name: "service_name", op: "=", prefix: "" });
  f("{service_name=|}", { kind: "value", name: "service_name", prefix: "", from: 14, to: 14 });
  f('{service_name="a|', { kind: "value", name: "service_name", prefix: "a", from: 14, to: 16 });
  f('{service_name="a|pi"}', { kind: "value", name: "service_name", prefix: "a", from: 14, to: 19 });
  f('{service_name=~"a|"}', { kind: "value", name: "service_name", op: "=~", prefix: "a" });
  f('{a="b"|', { kind: "next" });
  f('{a="b",|', { kind: "name", prefix: "" });
  f('{a="b", c|', { kind: "name", prefix: "c" });
  f('{a="b", c="d|', { kind: "value", name: "c", prefix: "d" });
  f('{a="b"}|', { kind: "next" });
});

test("complete", () => {
  const f = (text: string, choice: string, want: string): void => {
    const r = complete(text.replace("|", ""), at(text), choice);
    expect(`${r.text.slice(0, r.caret)}|${r.text.slice(r.caret)}`).toBe(want);
  };
  f("|", "service_name", "{service_name=|");
  f("{s|", "service_name", "{service_name=|");
  f('{s|="x"}', "service_name", '{service_name|="x"}');
  f("{service_name=|", "api", '{service_name="api"|');
  f('{service_name="a|pi"}', "auth", '{service_name="auth"|}');
  f('{a="b",|', "pod", '{a="b", pod=|');
  f("{a|", "a", "{a=|");
  f("{a |", "=~", "{a =~|");
  f('{a="|', 'say "hi"', '{a="say \\"hi\\""|');
});

test("finish closes what is open", () => {
  const f = (text: string, want: string): void => expect(finish(text)).toBe(want);
  f("", "");
  f(" { } ".replaceAll(" ", ""), "");
  f('a="b"', '{a="b"}');
  f('{a="b', '{a="b"}');
  f('{a="b",', '{a="b"}');
  f('{a="b", }', '{a="b"}');
  f('{a="b"}', '{a="b"}');
});
