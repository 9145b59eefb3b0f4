import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.locks.LockSupport;

/**
 * A program whose profile is known: burn() has the processor nearly all the time, site() allocates nearly all bytes,
 * two threads fight for one monitor, one thread is parked now and then.
 *
 *   javac Workload.java
 *   java -XX:StartFlightRecording=settings=workload.jfc,filename=workload.jfr Workload
 */
public class Workload {
    static volatile long sink;
    static volatile Object kept;
    static final Object monitor = new Object();

    static long burn(long n) {
        long x = n | 1;
        for (int i = 0; i < 20_000_000; i++) {
            x = x * 6364136223846793005L + 1442695040888963407L;
        }
        return x;
    }

    static void site() {
        List<byte[]> list = new ArrayList<>();
        for (int i = 0; i < 64; i++) {
            list.add(new byte[64 << 10]);
        }
        kept = list;
    }

    static void hold() {
        synchronized (monitor) {
            LockSupport.parkNanos(30_000_000);
        }
    }

    public static void main(String[] args) throws Exception {
        Thread fighter = new Thread(() -> {
            for (int i = 0; i < 10; i++) {
                hold();
            }
        }, "fighter");
        fighter.start();
        long end = System.nanoTime() + 1_500_000_000L;
        for (int i = 0; System.nanoTime() < end; i++) {
            sink += burn(sink);
            if (i % 4 == 0) {
                site();
            }
            if (i % 16 == 0) {
                hold();
            }
        }
        fighter.join();
    }
}
