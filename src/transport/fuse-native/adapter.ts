import type { Transport } from '../transport.ts';
export const fuseNativeTransport: Transport = {
  name: 'fuse-native',
  mount: async () => {
    throw new Error('wip');
  },
};
