/** layers */
import type { Command } from 'commander';
import type { LayerSummary, LayerTreeNode } from '../core/words.js';
import type { Cli } from './cli.js';
import { age, bytes, shortId, table } from './format.js';

export function layerCommands(program: Command, cli: Cli): void {
  program
    .command('layers')
    .description('list layers: their size, and who shares them')
    .option('--tree', 'as the tree that the chains form')
    .action(async ({ tree }: { tree?: boolean }) => {
      if (tree === true) {
        const roots = await cli.client.layerTree();
        cli.print({ data: roots, ids: chainsOf(roots), human: () => drawTree(roots) });
        return;
      }
      const layers = await cli.client.layers();
      cli.print({ data: layers, ids: layers.map(({ diffId }) => diffId), human: () => layerTable(layers) });
    });
}

function layerTable(layers: readonly LayerSummary[]): string {
  return table(layers, [
    { title: 'DIFF ID', value: ({ diffId }) => shortId(diffId) },
    { title: 'SIZE', value: ({ size }) => bytes(size), right: true },
    { title: 'ON DISK', value: ({ disk }) => bytes(disk), right: true },
    { title: 'ENTRIES', value: ({ entries }) => String(entries), right: true },
    { title: 'DRIVER', value: ({ drivers }) => drivers.join(',') },
    { title: 'CREATED', value: ({ created }) => age(created) },
    { title: 'CHAINS', value: ({ chains }) => String(chains.length), right: true },
    { title: 'IMAGES', value: ({ images }) => String(images.length), right: true },
    { title: 'CONTAINERS', value: ({ containers }) => String(containers.length), right: true },
  ]);
}

/** Each layer under the one it lies on, with the images and containers that have it as their top. */
export function drawTree(roots: readonly LayerTreeNode[]): string {
  const lines: string[] = [];
  const draw = (node: LayerTreeNode, prefix: string, branch: string, below: string): void => {
    const users = [...node.images, ...node.containers.map((id) => `container ${shortId(id)}`)];
    const names = users.length === 0 ? '' : `  ${users.join(', ')}`;
    lines.push(`${prefix}${branch}${shortId(node.diffId)}  ${bytes(node.size)}${names}\n`);
    node.children.forEach((child, index) => {
      const last = index === node.children.length - 1;
      draw(child, prefix + below, last ? '└─ ' : '├─ ', last ? '   ' : '│  ');
    });
  };
  for (const root of roots) draw(root, '', '', '');
  return lines.join('');
}

function chainsOf(nodes: readonly LayerTreeNode[]): string[] {
  return nodes.flatMap(({ chainId, children }) => [chainId, ...chainsOf(children)]);
}
