/** The same as heap.c, with arrays of three types. */
public class Heap {
    static final int BLOCKS = 10000;
    static Object[] kept;
    static volatile Object[] gone;

    static int sizeOf(int i) {
        return 1000 + (int) (i * 7919L % 16001);
    }

    static Object keep70(int n) {
        return new byte[n];
    }

    static Object keep20(int n) {
        return new long[n / 8];
    }

    static Object keep10(int n) {
        return new char[n / 2];
    }

    static Object[] make() {
        Object[] out = new Object[BLOCKS];
        for (int i = 0; i < BLOCKS; i++) {
            int n = sizeOf(i);
            out[i] = i % 10 < 7 ? keep70(n) : i % 10 < 9 ? keep20(n) : keep10(n);
        }
        return out;
    }

    public static void main(String[] args) throws InterruptedException {
        int times = args.length > 0 && args[0].equals("alloc") ? 2 : 1;
        Thread.sleep(6000);
        kept = make();
        gone = make();
        gone = null;
        Thread.sleep(14000);
        long[] sums = new long[3];
        for (int i = 0; i < BLOCKS; i++) {
            sums[i % 10 < 7 ? 0 : i % 10 < 9 ? 1 : 2] += sizeOf(i) + 16; // an array's header
        }
        System.out.printf("Heap.keep70 %d%nHeap.keep20 %d%nHeap.keep10 %d%n", sums[0] * times, sums[1] * times, sums[2] * times);
    }
}
