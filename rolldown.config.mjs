// The build: each program and each thread is one file, loaded synchronously, and with the code that V8 made of it
// (src/start/code.ts). Loading ninety small modules would take as long as Node's own start, three times over (command,
// daemon, workers). Of the packages only those stay outside that bring machine code.
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'rolldown';

const ENTRIES = {
  vdisk: 'src/cli/start.ts',
  mount: 'src/cli/mount.ts',
  helper: 'src/cli/helper.ts',
  main: 'src/daemon/main.ts',
  worker: 'src/transport/kernel/worker.ts',
  'keeper-thread': 'src/daemon/keeper-thread.ts',
  'hash-thread': 'src/evidence/hash-thread.ts',
  'convert-thread': 'src/convert/convert-thread.ts',
};

/**
 * What is started and imported is a line that has the bundle loaded. The bundle's name has a hash of its text, so that no
 * code is ever taken for that of another text of the same length.
 */
const stub = {
  name: 'stub',
  generateBundle(_options, bundle) {
    for (const { type, isEntry, name, fileName } of Object.values(bundle)) {
      if (type !== 'chunk' || !isEntry) continue;
      const source = `module.exports = require('./code.cjs').load(__dirname, '${fileName}');\n`;
      this.emitFile({ type: 'asset', fileName: `${name}.cjs`, source });
    }
  },
};

const common = {
  platform: 'node',
  // Of yargs, for a configuration file that extends another: there is none here.
  checks: { emptyImportMeta: false },
  external: ['koffi', 'fuse-native'],
  resolve: {
    alias: { 'string-width': fileURLToPath(new URL('src/cli/string-width.ts', import.meta.url)) },
  },
};

const output = { dir: 'dist', format: 'cjs', comments: false, codeSplitting: false };

export default defineConfig([
  {
    ...common,
    input: { code: 'src/start/code.ts' },
    output: { ...output, cleanDir: true, entryFileNames: '[name].cjs' },
  },
  ...Object.entries(ENTRIES).map(([name, path]) => ({
    ...common,
    input: { [name]: path },
    plugins: [stub],
    output: { ...output, entryFileNames: '[name]-[hash].cjs' },
  })),
]);
