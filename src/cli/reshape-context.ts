/** What the commands that change an image as a whole give to the layers below. */

import type { LayerContext } from '../chain/layer.ts';
import { holdersOfFile } from '../daemon/holders.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import { imageArguments } from './image-arguments.ts';

/** `notices` says what was reported so far, each text once. */
export function reshapeContext(parsed: Record<string, unknown>): {
  readonly context: LayerContext;
  readonly notices: () => readonly string[];
} {
  const { formatOptions, lock } = imageArguments(parsed);
  const notices = new Set<string>();
  return {
    context: {
      tables: new TableAllocator(),
      formatOptions,
      lock,
      report: (text) => void notices.add(text),
      holders: holdersOfFile,
    },
    notices: () => [...notices],
  };
}
