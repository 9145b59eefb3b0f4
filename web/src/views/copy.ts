// copyText puts text on the clipboard; false if the browser does not let us. Its own interface is there on secure origins
// only, which a server in one's own network often is not.
export async function copyText(text: string): Promise<boolean> {
  if (isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused by the user's settings: the older way may still work.
    }
  }
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "off-screen";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

// offerFile lets the browser save data under a name.
export function offerFile(data: BlobPart, type: string, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([data], { type }));
  link.download = name;
  link.click();
  // The browser has taken the data when the click returns, but not surely its name: let it finish.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
