// gzip by the browser's own streams.

// GzipError: the data is not whole gzip, or unpacks to too much.
export class GzipError extends Error {
  constructor(
    message: string,
    readonly why: "damaged" | "truncated" | "large",
  ) {
    super(message);
    this.name = "GzipError";
  }
}

export function isGzip(data: Uint8Array): boolean {
  return data[0] === 0x1f && data[1] === 0x8b;
}

// gunzip unpacks to at most so many bytes.
export async function gunzip(data: Uint8Array<ArrayBuffer>, limit: number): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new DecompressionStream("gzip");
  const writer = stream.writable.getWriter();
  const reader = stream.readable.getReader();
  const written = (async (): Promise<void> => {
    const step = 1 << 20;
    for (let at = 0; at < data.length; at += step) await writer.write(data.subarray(at, at + step));
    await writer.close();
  })();
  // What goes wrong in writing is seen in reading.
  written.catch(() => undefined);
  const parts: Uint8Array[] = [];
  let size = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      if (size > limit) {
        await reader.cancel();
        throw new GzipError("it unpacks to more than is read", "large");
      }
      parts.push(value);
    }
    await written;
  } catch (e) {
    if (e instanceof GzipError) throw e;
    // Nothing but its words tells in which way a browser found the data wanting.
    const early = e instanceof Error && /truncated|unexpected end|without reaching/i.test(`${e.message} ${String(e.cause ?? "")}`);
    throw early ? new GzipError("its gzip data ends early", "truncated") : new GzipError("its gzip data is damaged", "damaged");
  }
  return joined(parts, size);
}

export async function gzip(data: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await new Response(new Blob([data]).stream().pipeThrough(new CompressionStream("gzip"))).arrayBuffer());
}

function joined(parts: readonly Uint8Array[], size: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(size);
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}
