/**
 * On-disk structures, declared once. A declaration gives the decoder, the encoder, the offset of each field
 * and the table in the documentation, so that no offset is written twice. Fields follow each other without
 * gaps; what a specification leaves reserved is a field too, so that a rewritten structure keeps the bytes
 * that it does not understand.
 */

export interface Field<T> {
  /** Bytes on disk. */
  readonly size: number;
  /** The type as printed in the documentation. */
  readonly kind: string;
  readonly doc: string;
  read(view: DataView, at: number, little: boolean): T;
  write(view: DataView, at: number, value: T, little: boolean): void;
}

type Fields = { readonly [name: string]: Field<unknown> };
type Values<F extends Fields> = { -readonly [K in keyof F]: F[K] extends Field<infer T> ? T : never };

export interface StructInfo {
  /** Total bytes; must equal the sum of the fields. */
  readonly size: number;
  readonly endian: 'big' | 'little';
  /** Where the declaration comes from: specification and section. */
  readonly spec: string;
}

/** A field as the documentation tells it; `at` counts bytes from the start of the structure. */
export interface FieldInfo extends Pick<Field<unknown>, 'size' | 'kind' | 'doc'> {
  readonly name: string;
  readonly at: number;
}

export interface Struct<T extends object> {
  readonly name: string;
  readonly size: number;
  readonly spec: string;
  /** Byte offset of each field from the start of the structure. */
  readonly at: { readonly [K in keyof T]: number };
  /** Reads the structure at `base`. The caller has checked that `size` bytes are there. */
  decode(bytes: Uint8Array, base?: number): T;
  /** Writes every field at `base`. */
  encode(value: T, into: Uint8Array, base?: number): void;
  readonly endian: StructInfo['endian'];
  /** The fields in their order, for the documentation. */
  readonly fields: readonly FieldInfo[];
  /** The structure as a Markdown table. */
  describe(): string;
}

export type Decoded<S> = S extends Struct<infer T> ? T : never;

export function struct<F extends Fields>(name: string, info: StructInfo, fields: F): Struct<Values<F>> {
  type T = Values<F>;
  const little = info.endian === 'little';
  const entries = Object.entries(fields);
  const at: Record<string, number> = {};
  let end = 0;
  for (const [key, field] of entries) {
    at[key] = end;
    end += field.size;
  }
  if (end !== info.size) throw new Error(`${name}: the fields are ${end} bytes, declared are ${info.size}`);
  const viewOf = (bytes: Uint8Array, base: number) =>
    new DataView(bytes.buffer, bytes.byteOffset + base, info.size);

  return {
    name,
    size: info.size,
    spec: info.spec,
    at: at as { readonly [K in keyof T]: number },
    endian: info.endian,
    fields: entries.map(([name, { size, kind, doc }]) => ({ name, at: at[name]!, size, kind, doc })),
    decode(bytes, base = 0) {
      const view = viewOf(bytes, base);
      const value: Record<string, unknown> = {};
      for (const [key, field] of entries) value[key] = field.read(view, at[key]!, little);
      return value as T;
    },
    encode(value, into, base = 0) {
      const view = viewOf(into, base);
      for (const [key, field] of entries) field.write(view, at[key]!, value[key as keyof T], little);
    },
    describe() {
      const rows = entries.map(([key, f]) => `| ${at[key]} | ${f.size} | ${key} | ${f.kind} | ${f.doc} |`);
      const head = `### ${name}\n\n${info.size} bytes, ${info.endian}-endian. Source: ${info.spec}\n`;
      return `${head}\n| offset | size | field | type | meaning |\n|---|---|---|---|---|\n${rows.join('\n')}\n`;
    },
  };
}

export const u8 = (doc: string): Field<number> => ({
  size: 1,
  kind: 'u8',
  doc,
  read: (view, at) => view.getUint8(at),
  write: (view, at, value) => view.setUint8(at, value),
});

export const u16 = (doc: string): Field<number> => ({
  size: 2,
  kind: 'u16',
  doc,
  read: (view, at, little) => view.getUint16(at, little),
  write: (view, at, value, little) => view.setUint16(at, value, little),
});

export const u32 = (doc: string): Field<number> => ({
  size: 4,
  kind: 'u32',
  doc,
  read: (view, at, little) => view.getUint32(at, little),
  write: (view, at, value, little) => view.setUint32(at, value, little),
});

/** A u64, always decoded as a bigint: see `safeNumber` for one that is a quantity. */
export const u64 = (doc: string): Field<bigint> => ({
  size: 8,
  kind: 'u64',
  doc,
  read: (view, at, little) => view.getBigUint64(at, little),
  write: (view, at, value, little) => view.setBigUint64(at, value, little),
});

/** `length` bytes as they are; decoded as a copy. */
export const bytes = (length: number, doc: string): Field<Uint8Array> => ({
  size: length,
  kind: `u8[${length}]`,
  doc,
  read: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, length).slice(),
  write: (view, at, value) => {
    const target = new Uint8Array(view.buffer, view.byteOffset + at, length);
    target.fill(0);
    target.set(value.subarray(0, length));
  },
});

/** `length` bytes of Latin-1 text, trailing NULs included. */
export const ascii = (length: number, doc: string): Field<string> => ({
  size: length,
  kind: `char[${length}]`,
  doc,
  read: (view, at) => {
    let text = '';
    for (let n = 0; n < length; n += 1) text += String.fromCharCode(view.getUint8(at + n));
    return text;
  },
  write: (view, at, value) => {
    for (let n = 0; n < length; n += 1) view.setUint8(at + n, n < value.length ? value.charCodeAt(n) : 0);
  },
});

/** The value as a number where that is exact, else undefined. No arithmetic on a disk's u64 without it. */
export function safeNumber(value: bigint): number | undefined {
  return value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : undefined;
}
