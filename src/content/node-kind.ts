/** What an inode of a layer is; a whiteout stands for the absence of what lower layers have under its name. */
export type NodeKind = 'file' | 'directory' | 'symlink' | 'char' | 'block' | 'fifo' | 'whiteout';
