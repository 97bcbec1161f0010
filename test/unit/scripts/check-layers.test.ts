/** The layer check itself: it must see every kind of wrong import, and name it. */

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';

const SCRIPT = fileURLToPath(new URL('../../../scripts/check-layers.mjs', import.meta.url));
const root = mkdtempSync(join(tmpdir(), 'vdisk-layers-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

let count = 0;

/** Runs the check on a tree of these files: path → text. */
function check(files: Readonly<Record<string, string>>): { status: number | null; said: string } {
  count += 1;
  const tree = join(root, `${count}`, 'src');
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(tree, name)), { recursive: true });
    writeFileSync(join(tree, name), text);
  }
  const { status, stderr } = spawnSync(process.execPath, [SCRIPT, tree], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  return { status, said: stderr.replace(/^npm warn.*\n/gm, '') };
}

describe('check-layers', () => {
  it('takes imports that run downwards', () => {
    const outcome = check({
      'base/a.ts': "import { b } from './b.ts';",
      'base/b.ts': "import { EOL } from 'node:os';",
      'source/file.ts': "import { openSync } from 'node:fs';\nimport { a } from '../base/a.ts';",
      'formats/raw/driver.ts':
        "import type { Image } from '../../image/driver.ts';\nimport { x } from './x.ts';",
      'formats/registry.ts': "import { rawDriver } from './raw/driver.ts';",
      'cli/mount.ts': "import yargs from 'yargs';\nconst { s } = await import('../daemon/serve.ts');",
    });
    expect(outcome).toEqual({ status: 0, said: '' });
  });

  it.each([
    [
      'an import upwards',
      'base/a.ts',
      "import { f } from '../fuse/f.ts';",
      'base may not import fuse (../fuse/f.ts)',
    ],
    [
      'an import of what loads the bundles',
      'cli/a.ts',
      "import { load } from '../start/code.ts';",
      'cli may not import start (../start/code.ts)',
    ],
    [
      'a type upwards',
      'fuse/a.ts',
      "import type { T } from '../transport/t.ts';",
      'fuse may not import transport',
    ],
    [
      'an export upwards',
      'disk/a.ts',
      "export { f } from '../transport/f.ts';",
      'disk may not import transport',
    ],
    ['a late import upwards', 'fuse/a.ts', "await import('../daemon/d.ts');", 'fuse may not import daemon'],
    [
      'an import over lines',
      'base/a.ts',
      "import {\n  f,\n  g,\n} from '../fuse/f.ts';",
      'base may not import fuse',
    ],
    ['a bare import', 'base/a.ts', "import '../fuse/f.ts';", 'base may not import fuse'],
    [
      'format to format',
      'formats/vhd/a.ts',
      "import { b } from '../vdi/b.ts';",
      'one format may not import another',
    ],
    [
      'format to cache',
      'formats/vhd/a.ts',
      "import { c } from '../../cache/c.ts';",
      'formats may not import cache',
    ],
    [
      'files in a low layer',
      'formats/vhd/a.ts',
      "import { readSync } from 'node:fs';",
      'may not import node:fs',
    ],
    [
      'promises of files',
      'disk/a.ts',
      "import { open } from 'node:fs/promises';",
      'may not import node:fs/promises',
    ],
    ['files without node:', 'disk/a.ts', "import { readSync } from 'fs';", 'disk may not import fs'],
    [
      'threads outside of transports and the daemon',
      'fuse/a.ts',
      "import { Worker } from 'node:worker_threads';",
      'node:worker_threads',
    ],
    [
      'koffi outside of sources',
      'transport/a.ts',
      "const k = createRequire(import.meta.url)('koffi');",
      'import koffi',
    ],
    ['koffi by require', 'transport/a.ts', "const k = require('koffi');", 'import koffi'],
    ['what is outside', 'base/a.ts', "import { x } from '../../test/x.ts';", 'outside of src'],
    ['a folder that is no layer', 'misc/a.ts', 'export const a = 1;', 'misc is no layer'],
  ])('fails for %s, and names it', (_, file, text, said) => {
    const outcome = check({ 'base/fine.ts': 'export const fine = 1;', [file]: text });
    expect(outcome.status).toBe(1);
    expect(outcome.said).toContain(`${file}: `);
    expect(outcome.said).toContain(said);
    expect(outcome.said.trim().split('\n')).toHaveLength(1);
  });

  it('names every wrong import', () => {
    const outcome = check({
      'base/a.ts': "import { f } from '../fuse/f.ts';\nimport { g } from '../cli/g.ts';",
      'fuse/f.ts': "import { s } from '../daemon/s.ts';",
    });
    expect(outcome.status).toBe(1);
    expect(outcome.said.trim().split('\n')).toHaveLength(3);
  });

  it('takes this project', () => {
    const { status, stderr } = spawnSync(process.execPath, [SCRIPT], { encoding: 'utf8', timeout: 30_000 });
    expect([status, stderr]).toEqual([0, '']);
  });
});
