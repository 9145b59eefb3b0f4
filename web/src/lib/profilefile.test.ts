import { readFileSync } from "node:fs";
import { deflateRawSync, gunzipSync, gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { gunzip, gzip, GzipError } from "./gzip";
import { FileError, readProfile } from "./profilefile";

const real = (name: string): Uint8Array<ArrayBuffer> => Uint8Array.from(readFileSync(new URL(`../../../profile/testdata/${name}`, import.meta.url)));
const text = (s: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(s);
const cpu = real("pprof/cpu.pb.gz");

describe("which format it is", () => {
  const f = (name: string, data: Uint8Array<ArrayBuffer>, format: string, samples: number): void => {
    test(name, async () => {
      const read = await readProfile(data);
      expect([read.format, read.samples.count]).toEqual([format, samples]);
    });
  };
  f("pprof, packed", cpu, "pprof", 33);
  f("pprof, unpacked", Uint8Array.from(gunzipSync(cpu)), "pprof", 33);
  f("folded text", text("main;a 1\nmain;b 2\n"), "folded", 2);
  f("folded text, packed", Uint8Array.from(gzipSync("main 1\n")), "folded", 1);
  f("speedscope", text('\ufeff {"$schema":"https://www.speedscope.app/file-format-schema.json","shared":{"frames":[{"name":"a"}]},"profiles":[{"type":"sampled","unit":"none","samples":[[0]],"weights":[1]}]}'), "speedscope", 1);
});

describe("what is wrong, and what to do", () => {
  const f = (name: string, data: Uint8Array<ArrayBuffer>, want: RegExp): void => {
    test(name, async () => {
      const e: unknown = await readProfile(data).catch((error: unknown) => error);
      expect(e).toBeInstanceOf(FileError);
      expect((e as FileError).message).toMatch(want);
    });
  };
  f("empty", new Uint8Array(), /It is empty/);
  f("packed and empty", Uint8Array.from(gzipSync("")), /It is empty/);
  f("cut off", cpu.slice(0, cpu.length - 3000), /cut off.* ends early\. Copy or download it again/);
  f("cut off in its last bytes", cpu.slice(0, cpu.length - 4), /cut off/);
  f("damaged", cpu.map((b, i) => (i === 5000 ? b ^ 255 : b)), /damaged/);
  f("cut off unpacked", Uint8Array.from(gunzipSync(cpu)).slice(0, 20_000), /cut off or damaged on its way: copy or download it again/);
  f("a packed text that is none", Uint8Array.from(gzipSync("hello")), /folded text.*line 1: want "a;b;c VALUE"/);
  f("another tool's JSON", text('{"nodes":[]}'), /not speedscope's/);
  f("half of speedscope's JSON", text('{"$schema":"https://www.speedscope.app/file-format-schema.json","shared"'), /not whole JSON/);
  f("a web page", text("<!DOCTYPE html><title>Sign in</title>"), /signing in/);
  f("Go's text", text("goroutine profile: total 5\n5 @ 0x1 0x2\n"), /without that/);
  f("a recording of the JVM", Uint8Array.from(gunzipSync(real("jfr/workload-17.jfr.gz"))), /profilectl upload/);
  f("a program", Uint8Array.from(readFileSync(process.execPath).subarray(0, 4096)), /profilectl record/);
  f("packed in another way", Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0, 0), /Unpack it first/);
  f("noise", deflateRawSync(cpu) as Uint8Array<ArrayBuffer>, /not a pprof/);
});

test("what unpacks to more than is read is given up", async () => {
  const packed = Uint8Array.from(gzipSync(new Uint8Array(5_000_000)));
  const e: unknown = await gunzip(packed, 4_000_000).catch((error: unknown) => error);
  expect(e).toBeInstanceOf(GzipError);
  expect((e as GzipError).why).toBe("large");
  expect((await gunzip(packed, 5_000_000)).length).toBe(5_000_000);
});
test("what is packed unpacks to the same", async () => {
  expect(await gunzip(await gzip(cpu), 1 << 20)).toEqual(cpu);
});
