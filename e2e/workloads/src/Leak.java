import java.util.ArrayList;
import java.util.List;

/** A static list that grows by 1 MB/s, beside memory that is given back. */
public class Leak {
    static final List<byte[]> list = new ArrayList<>();
    static Object scrap;

    static void remember() {
        list.add(new byte[10 << 10]);
    }

    static void forget() {
        scrap = new long[8 << 10];
    }

    public static void main(String[] args) throws InterruptedException {
        for (;;) {
            remember();
            forget();
            Thread.sleep(10);
        }
    }
}
