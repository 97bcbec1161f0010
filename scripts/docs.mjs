#!/usr/bin/env node
// Writes the man pages into docs/man, from what the sources declare (src/cli/man), and removes any others there.
// test/unit/cli/man-pages.test.ts fails where this has been forgotten.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { rolldown } from 'rolldown';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const target = join(root, 'docs', 'man');

/** The pages, from sources that Node cannot read as they are. */
async function pages() {
  // Inside of the checkout: what is bundled imports packages.
  mkdirSync(join(root, 'node_modules', '.cache'), { recursive: true });
  const folder = mkdtempSync(join(root, 'node_modules', '.cache', 'docs-'));
  try {
    const bundle = await rolldown({
      input: join(root, 'src/cli/man/pages.ts'),
      platform: 'node',
      external: ['koffi', 'fuse-native', 'yargs'],
    });
    await bundle.write({ dir: folder, format: 'esm', entryFileNames: '[name].js' });
    await bundle.close();
    const { manPages } = await import(pathToFileURL(join(folder, 'pages.js')).href);
    return await manPages();
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const made = await pages();
rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
for (const { file, text } of made) {
  writeFileSync(join(target, file), text);
  console.log(`docs/man/${file}`);
}
