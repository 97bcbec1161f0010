/** An image opened for changes by one thread alone: no mount, no other worker. */

import { IoGate } from '../shared/io-gate.ts';
import { PagePool } from '../shared/page-pool.ts';
import type { BlockSource } from '../source/block-source.ts';
import type { Editor, FormatDriver, Image, OpenContext, Translator } from './driver.ts';

/** Of the tables, unless said; memory is touched as it is used. */
const POOL_BYTES = 64 << 20;

export interface AloneImage {
  readonly image: Image;
  readonly translator: Translator;
  readonly editor: Editor;
  readonly gate: IoGate;
}

/**
 * Opens `source` for reading and changing. The caller closes the editor, and then the source. Throws ImageError where
 * the image cannot be opened or must not be written.
 */
export function openAlone(
  driver: FormatDriver,
  source: BlockSource,
  context: OpenContext,
  poolBytes = POOL_BYTES,
): AloneImage {
  const { report } = context;
  const image = driver.open(source, context);
  const pool = new PagePool(PagePool.seed(poolBytes));
  const gate = new IoGate(IoGate.seed(1), 0);
  const shared = { ...image.share(), edit: image.prepareEdit(context) };
  const translator = driver.attach(shared, source, { pool, report });
  const editor = driver.attachEditor(shared, source, { pool, report, gate }, translator);
  return { image, translator, editor, gate };
}
