import { Input } from "@grafana/ui";
import React, { useEffect, useState } from "react";

interface Props {
  readonly label: string;
  readonly value: string;
  readonly placeholder?: string;
  readonly width?: number;
  readonly submit: (text: string) => void;
}

// TextInput submits when it is left, or by Enter: not at every letter.
export function TextInput({ label, value, submit, ...more }: Props) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  const leave = (): void => {
    if (text !== value) submit(text);
  };
  return (
    <Input
      aria-label={label}
      spellCheck={false}
      {...more}
      value={text}
      onChange={(e) => setText(e.currentTarget.value)}
      onBlur={leave}
      onKeyDown={(e) => e.key === "Enter" && leave()}
    />
  );
}
