// The build: some entries and the chunks they share. Loading ninety small modules takes as long as Node's own
// start, three times over (command, daemon, workers); in a few files a mount is ready a quarter sooner, and a
// command of vdisk in two thirds of the time. Of the packages only those stay outside that bring machine code.
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'rolldown';

export default defineConfig([
  {
    input: {
      mount: 'src/cli/mount.ts',
      vdisk: 'src/cli/start.ts',
      helper: 'src/cli/helper.ts',
      main: 'src/daemon/main.ts',
      worker: 'src/transport/kernel/worker.ts',
      'keeper-thread': 'src/daemon/keeper-thread.ts',
      'hash-thread': 'src/evidence/hash-thread.ts',
    },
    platform: 'node',
    external: ['koffi', 'fuse-native'],
    resolve: {
      alias: { 'string-width': fileURLToPath(new URL('src/cli/string-width.ts', import.meta.url)) },
    },
    output: {
      dir: 'dist',
      format: 'esm',
      cleanDir: true,
      sourcemap: true,
      entryFileNames: '[name].js',
      // Beside the entries: ./worker.js and ./main.js are found from wherever their starter ends up.
      chunkFileNames: '[name]-[hash].js',
      // Few files: each that is loaded takes a millisecond or two of turns of the event loop.
      codeSplitting: {
        groups: [
          {
            name: 'images',
            test: /\/src\/(base|shared|source|image|formats|disk|chain)\//,
            minShareCount: 4,
          },
          { name: 'command-line', test: /\/(node_modules|src\/cli)\//, minShareCount: 8 },
        ],
      },
    },
  },
  // In one file, and loaded synchronously: what is read file by file, asynchronously, would be there when a machine that
  // has other things to do has let each step happen, and the threads of a conversion are waited for.
  {
    input: { 'convert-thread': 'src/convert/convert-thread.ts' },
    platform: 'node',
    external: ['koffi'],
    output: {
      dir: 'dist',
      format: 'cjs',
      sourcemap: true,
      entryFileNames: '[name].cjs',
      codeSplitting: false,
    },
  },
]);
