/** Conversions in this process, unbuilt but for their threads. */

import { resolve } from 'node:path';
import { DEFAULT_POLICY } from '../../src/chain/policy.ts';
import { closeChain, openChain } from '../../src/cli/open-chain.ts';
import { type Converted, type ConvertRequest, convert } from '../../src/convert/convert.ts';
import { Crew } from '../../src/convert/crew.ts';
import { driverOf } from '../../src/formats/registry.ts';
import type { FormatId } from '../../src/image/driver.ts';
import { TableAllocator } from '../../src/shared/paged-table.ts';

export interface Asked {
  readonly sources: readonly (readonly [path: string, format: FormatId])[];
  readonly path: string;
  readonly format: FormatId;
  readonly options?: readonly string[];
  readonly verify?: boolean;
  readonly resume?: boolean;
  readonly flush?: boolean;
  readonly signal?: AbortSignal;
  /** Of the crew; by default 2. */
  readonly threads?: number;
  /** Changes the request: what a test breaks. */
  readonly alter?: (request: ConvertRequest) => void;
}

/** `script`: the built convert-thread. Returns also what was reported. */
export async function convertTo(
  asked: Asked,
  script: URL,
): Promise<Converted & { readonly notices: readonly string[] }> {
  const notices: string[] = [];
  const threads = asked.threads ?? 2;
  const crew = new Crew(threads, script);
  const given = { formatOptions: [], lock: true, chain: DEFAULT_POLICY };
  const sources = asked.sources.map(([path, format]) =>
    openChain(resolve(path), format, given, (text) => notices.push(text)),
  );
  try {
    const request: ConvertRequest = {
      sources,
      target: {
        path: asked.path,
        driver: driverOf(asked.format),
        options: asked.options ?? [],
        replace: false,
        context: {
          tables: new TableAllocator(),
          formatOptions: [],
          lock: true,
          report: (text) => notices.push(text),
          holders: () => [],
        },
        signal: asked.signal ?? new AbortController().signal,
      },
      crew,
      threads,
      resume: asked.resume === true,
      verify: asked.verify === true,
      flush: asked.flush === true,
      progress: () => undefined,
    };
    asked.alter?.(request);
    return { ...(await convert(request)), notices };
  } finally {
    for (const layers of sources) closeChain(layers);
    await crew.dismiss();
  }
}
