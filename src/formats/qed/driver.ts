/** QED, the QEMU Enhanced Disk format. See README.md. */

import type { FormatDriver, ProbeSample, ProbeVerdict } from '../../image/driver.ts';
import { NO_MATCH } from '../../image/driver.ts';
import { checkImage } from './check.ts';
import { qedCreator } from './create.ts';
import { QedEditor } from './editor.ts';
import { QedImage } from './image.ts';
import type { QedEdit } from './prepare.ts';
import { qedReshaper } from './reshape.ts';
import { MAGIC } from './structs.ts';
import { type QedState, QedTranslator } from './translator.ts';

function probe({ head }: ProbeSample): ProbeVerdict {
  if (head.length < 4) return NO_MATCH;
  const magic = new DataView(head.buffer, head.byteOffset, 4).getUint32(0, true);
  return magic === MAGIC ? { match: 'signature', variant: 'dynamic' } : NO_MATCH;
}

export const qedDriver: FormatDriver = Object.freeze({
  id: 'qed',
  title: 'QEMU Enhanced Disk (QED)',
  suffixes: ['.qed'],
  options: [],
  probe,
  open: (source, context) => new QedImage(source, context),
  attach: (shared, source, context) => new QedTranslator(shared.state as QedState, source, context),
  attachEditor: (shared, source, context, translator) =>
    new QedEditor(
      (shared.state as QedState).geometry,
      shared.edit as QedEdit,
      source,
      context,
      translator as QedTranslator,
    ),
  check: checkImage,
  create: qedCreator,
  reshape: qedReshaper,
} satisfies FormatDriver);
